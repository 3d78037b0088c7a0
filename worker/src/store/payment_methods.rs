//! Payment methods by the exchange's identifier.

use std::collections::{BTreeMap, HashMap};

use shared::domain::PaymentMethod;
use shared::exchange::Exchange;
use sqlx::PgConnection;

use super::StoreError;

/// Identifiers remembered from group to group; all exchanges together have a few thousand.
const CACHED_METHODS: usize = 20_000;

#[derive(Clone, Copy)]
struct Known {
    id: i32,
    /// Whether the database has a name, not only the identifier in its place.
    is_named: bool,
}

pub(crate) struct PaymentMethods {
    known: HashMap<String, Known>,
}

impl PaymentMethods {
    pub(crate) fn new() -> Self {
        Self { known: HashMap::new() }
    }

    /// Makes sure that all `methods` have an id. A name is added where there was none; a null never
    /// hides a name.
    pub(crate) async fn resolve(
        &mut self,
        connection: &mut PgConnection,
        exchange: Exchange,
        methods: Vec<&PaymentMethod>,
    ) -> Result<(), StoreError> {
        self.make_room();
        let mut unknown = BTreeMap::new();
        for method in methods {
            let known = self.known.get(&method.identifier);
            if known.is_none_or(|known| !known.is_named && names(method)) {
                let entry = unknown.entry(method.identifier.as_str()).or_insert(method);
                if entry.name.is_none() {
                    *entry = method;
                }
            }
        }
        if unknown.is_empty() {
            return Ok(());
        }
        let methods: Vec<&PaymentMethod> = unknown.into_values().collect();
        for (identifier, id, is_named) in upsert(connection, exchange, &methods).await? {
            self.known.insert(identifier, Known { id, is_named });
        }
        Ok(())
    }

    /// Between two groups, and all at once: one that is resolved may not be forgotten before its group is stored.
    fn make_room(&mut self) {
        if self.known.len() > CACHED_METHODS {
            self.known.clear();
        }
    }

    /// The id of a method that was resolved for this group.
    pub(crate) fn id(&self, method: &PaymentMethod) -> Option<i32> {
        self.known.get(&method.identifier).map(|known| known.id)
    }
}

/// Whether a method tells a name that is not its identifier, which stands in for one.
fn names(method: &PaymentMethod) -> bool {
    method.name.as_ref().is_some_and(|name| *name != method.identifier)
}

/// Inserts what is new and names what had no name. `methods` ascending by identifier and each once,
/// so that writers do not wait for each other in a circle. Gives identifier, id and whether named.
pub(super) async fn upsert(
    connection: &mut PgConnection,
    exchange: Exchange,
    methods: &[&PaymentMethod],
) -> Result<Vec<(String, i32, bool)>, StoreError> {
    let there = list(connection, exchange, methods).await?;
    // Only what is news: an insert that meets a row uses up a number all the same, and numbers are
    // bounded.
    let named: HashMap<&str, bool> =
        there.iter().map(|(identifier, _, is_named)| (identifier.as_str(), *is_named)).collect();
    let is_news = |method: &&&PaymentMethod| match named.get(method.identifier.as_str()) {
        None => true,
        Some(is_named) => !is_named && names(method),
    };
    let news: Vec<&PaymentMethod> = methods.iter().filter(is_news).copied().collect();
    if news.is_empty() {
        return Ok(there);
    }
    sqlx::query(
        "INSERT INTO warehouse.dim_payment_methods AS d
                (exchange_id, identifier, method_name, method_short_name, first_seen_at)
         SELECT $1, m.identifier, coalesce(m.name, m.identifier), m.short_name, now()
           FROM unnest($2::text[], $3::text[], $4::text[]) AS m (identifier, name, short_name)
             ON CONFLICT (exchange_id, identifier) DO UPDATE
            SET method_name = EXCLUDED.method_name,
                method_short_name = coalesce(EXCLUDED.method_short_name, d.method_short_name)
          WHERE d.method_name = d.identifier AND EXCLUDED.method_name <> d.identifier",
    )
    .bind(exchange.id())
    .bind(news.iter().map(|m| m.identifier.as_str()).collect::<Vec<_>>())
    .bind(news.iter().map(|m| m.name.as_deref()).collect::<Vec<_>>())
    .bind(news.iter().map(|m| m.short_name.as_deref()).collect::<Vec<_>>())
    .execute(&mut *connection)
    .await?;
    list(connection, exchange, methods).await
}

/// Those of `methods` that are there.
async fn list(
    connection: &mut PgConnection,
    exchange: Exchange,
    methods: &[&PaymentMethod],
) -> Result<Vec<(String, i32, bool)>, StoreError> {
    let rows = sqlx::query_as(
        "SELECT identifier, payment_method_id, method_name <> identifier
           FROM warehouse.dim_payment_methods WHERE exchange_id = $1 AND identifier = ANY ($2)",
    )
    .bind(exchange.id())
    .bind(methods.iter().map(|m| m.identifier.as_str()).collect::<Vec<_>>())
    .fetch_all(connection)
    .await?;
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_remembered_than_there_is_room_for() {
        let mut methods = PaymentMethods::new();
        let known = |number: usize| (number.to_string(), Known { id: 1, is_named: true });
        methods.known.extend((0..CACHED_METHODS).map(known));
        methods.make_room();
        assert_eq!(methods.known.len(), CACHED_METHODS);
        methods.known.extend([known(CACHED_METHODS)]);
        methods.make_room();
        assert!(methods.known.is_empty());
    }
}
