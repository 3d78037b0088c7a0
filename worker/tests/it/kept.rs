//! The connection that a store keeps from group to group.

use std::time::Duration;

use chrono::{DateTime, Utc};
use shared::domain::BatchId;
use shared::store::TRUSTED_FOR;
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use worker::store::archive::Archive;
use worker::store::jobs::LookUps;
use worker::store::{Store, Stored, ToStore};

use crate::contents::publish;
use crate::identity::{ad, advertiser, page_of};
use crate::{make_day, settings, unique};

/// A pool of so many connections to the same database, which the server knows by `name`.
async fn pool_of(connections: u32, name: &str, pool: &PgPool) -> PgPool {
    let options = (*pool.connect_options()).clone().application_name(name);
    PgPoolOptions::new().max_connections(connections).connect_with(options).await.unwrap()
}

/// A page of a batch of its own, as published.
async fn published(pool: &PgPool, batch: u32, at: DateTime<Utc>) -> ToStore {
    let mut one = page_of(vec![ad(advertiser("somebody", 1))], at);
    one.job.batch_id = BatchId::new(at.date_naive(), batch).unwrap();
    publish(pool, &one.job).await;
    one
}

fn is_ended(stored: &[Stored]) -> bool {
    matches!(stored, [Stored::Ended(_)])
}

#[sqlx::test(migrations = "../migrations")]
async fn groups_go_over_one_connection(pool: PgPool) {
    let at = Utc::now();
    make_day(&pool, at.date_naive()).await;
    let name = unique("kept");
    let own = pool_of(5, &name, &pool).await;
    // By turns it gives out both.
    let both = (own.acquire().await.unwrap(), own.acquire().await.unwrap());
    drop(both);
    while own.num_idle() < 2 {
        tokio::task::yield_now().await;
    }
    let begun = async || {
        let begun = "SELECT pid, query_start FROM pg_stat_activity WHERE application_name = $1 ORDER BY pid";
        let begun: Vec<(i32, Option<DateTime<Utc>>)> =
            sqlx::query_as(begun).bind(&name).fetch_all(&pool).await.unwrap();
        assert_eq!(begun.len(), 2);
        begun
    };
    let before = begun().await;
    let mut store = Store::new(own.clone(), &settings(&[]), Archive::new().unwrap());
    for batch in 1..=5 {
        let one = published(&pool, batch, at).await;
        assert!(is_ended(&store.store(&[one]).await.unwrap()));
    }
    let after = begun().await;
    let used = before.iter().zip(&after).filter(|(before, after)| before != after).count();
    assert_eq!(used, 1, "{before:?}, {after:?}");
}

/// Where there are no more than the storer and the looks into the ledger would keep, others get theirs too.
#[sqlx::test(migrations = "../migrations")]
async fn of_a_small_pool_none_is_kept(pool: PgPool) {
    let at = Utc::now();
    make_day(&pool, at.date_naive()).await;
    for (connections, batches) in [(1, [1, 2]), (2, [3, 4])] {
        let own = pool_of(connections, &unique("kept"), &pool).await;
        let mut store = Store::new(own.clone(), &settings(&[]), Archive::new().unwrap());
        let look_ups = LookUps::new(own.clone());
        for batch in batches {
            let one = published(&pool, batch, at).await;
            assert!(look_ups.find(&one.job).await.unwrap().is_some());
            assert!(is_ended(&store.store(&[one]).await.unwrap()));
            sqlx::query("SELECT 1").execute(&own).await.unwrap();
        }
    }
}

/// What is given up in the middle leaves nothing behind.
#[sqlx::test(migrations = "../migrations")]
async fn what_is_given_up_is_stored_again(pool: PgPool) {
    let at = Utc::now();
    make_day(&pool, at.date_naive()).await;
    let own = pool_of(5, &unique("kept"), &pool).await;
    let mut store = Store::new(own.clone(), &settings(&[]), Archive::new().unwrap());
    for batch in 1..=2 {
        let group = [published(&pool, batch, at).await];
        let mut holder = pool.begin().await.unwrap();
        let lock = "SELECT FROM pipeline.jobs WHERE batch_id = $1 FOR NO KEY UPDATE";
        let lock = sqlx::query(lock).bind(group[0].job.batch_id.raw());
        lock.execute(&mut *holder).await.unwrap();
        let stored = store.store(&group);
        tokio::time::timeout(Duration::from_millis(200), stored).await.unwrap_err();
        holder.rollback().await.unwrap();
        assert!(is_ended(&store.store(&group).await.unwrap()));
    }
}

/// A connection that the server ended costs one try at most, and nothing of what was to be stored.
#[sqlx::test(migrations = "../migrations")]
async fn a_connection_that_was_cut_is_replaced(pool: PgPool) {
    let at = Utc::now();
    make_day(&pool, at.date_naive()).await;
    let name = unique("kept");
    let own = pool_of(5, &name, &pool).await;
    let mut store = Store::new(own.clone(), &settings(&[]), Archive::new().unwrap());
    let look_ups = LookUps::new(own.clone());
    for batch in 1..=2 {
        let one = published(&pool, batch, at).await;
        assert!(look_ups.find(&one.job).await.unwrap().is_some());
        assert!(is_ended(&store.store(&[one]).await.unwrap()));
        // With how long it waits until they are gone, in ms.
        let cut =
            "SELECT count(*) FILTER (WHERE pg_terminate_backend(pid, 10000)) FROM pg_stat_activity
                    WHERE application_name = $1";
        let cut: i64 = sqlx::query_scalar(cut).bind(&name).fetch_one(&pool).await.unwrap();
        assert_eq!(cut, 2, "of the storer and of the looks");
        let next = published(&pool, batch + 2, at).await;
        let group = [next];
        // After a second it is asked whether it lives.
        if batch == 2 {
            tokio::time::sleep(TRUSTED_FOR + Duration::from_millis(100)).await;
            assert!(look_ups.find(&group[0].job).await.unwrap().is_some());
            assert!(is_ended(&store.store(&group).await.unwrap()));
            continue;
        }
        let row = match look_ups.find(&group[0].job).await {
            Err(error) if error.is_passing() => look_ups.find(&group[0].job).await,
            found => found,
        };
        assert!(row.unwrap().is_some());
        let stored = match store.store(&group).await {
            Err(error) if error.is_passing() => store.store(&group).await,
            stored => stored,
        };
        assert!(is_ended(&stored.unwrap()));
    }
}

/// Lets time pass for the programs, which the servers do not notice.
async fn pass(minutes: u64) {
    tokio::time::pause();
    tokio::time::advance(Duration::from_mins(minutes)).await;
    tokio::time::resume();
}

/// What the pool would not keep for longer is not kept either: the process at the server grows, and what stands between drops
/// what is idle.
#[sqlx::test(migrations = "../migrations")]
async fn a_connection_that_grew_old_is_replaced(pool: PgPool) {
    let at = Utc::now();
    make_day(&pool, at.date_naive()).await;
    let hour = Some(Duration::from_hours(1));
    // Minutes between groups, and whether the next one goes over another connection.
    let by_age = [(40, false), (10, false), (20, true), (50, false), (20, true)];
    let by_idleness = [(50, false), (50, false), (70, true), (50, false)];
    let lives = [(hour, None, &by_age[..]), (None, hour, &by_idleness[..])];
    let mut batches = 1..;
    for (max_lifetime, idle_timeout, groups) in lives {
        let name = unique("kept");
        let options = (*pool.connect_options()).clone().application_name(&name);
        let own = PgPoolOptions::new().max_lifetime(max_lifetime).idle_timeout(idle_timeout);
        let own = own.connect_lazy_with(options);
        let mut store = Store::new(own.clone(), &settings(&[]), Archive::new().unwrap());
        let mut group = async || {
            let one = published(&pool, batches.next().unwrap(), at).await;
            assert!(is_ended(&store.store(&[one]).await.unwrap()));
            the_only_one(&pool, &name).await
        };
        let mut used = group().await;
        for (minutes, is_replaced) in groups {
            pass(*minutes).await;
            let next = group().await;
            assert_eq!(next != used, *is_replaced, "{max_lifetime:?}, {idle_timeout:?}");
            used = next;
        }
    }
}

/// The connection of this name, once there is no other.
async fn the_only_one(pool: &PgPool, name: &str) -> i32 {
    let only = async {
        loop {
            let all = "SELECT pid FROM pg_stat_activity WHERE application_name = $1";
            let all: Vec<i32> = sqlx::query_scalar(all).bind(name).fetch_all(pool).await.unwrap();
            match all[..] {
                [only] => return only,
                _ => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), only).await.expect("one is closed")
}
