//! What surrounds an answer, taken apart by its brackets: so that one part that is no JSON, or no text,
//! is refused alone.

use super::lenient::plain;
use super::value::{self, Raw, Written};
use super::wire::AnswerError;
use crate::exchange::scan::{self, Member, Torn};

/// Most ads of one answer that are taken apart: fifteen times the largest market that was captured as
/// one list. A page holds 32.
pub(super) const MAX_ITEMS: usize = 5_000;
/// Most members of an answer or of its data.
const MAX_MEMBERS: usize = 1_000;

/// Code of success.
pub(super) const SUCCESS: &str = "000000";

/// A successful answer.
pub(super) struct Opened<'a> {
    pub(super) data: &'a [u8],
    /// As declared.
    pub(super) total: Option<u32>,
    /// What of the envelope was not as it should be.
    pub(super) moved: Vec<String>,
}

/// A list of ads.
pub(super) struct Items<'a> {
    pub(super) items: Vec<&'a [u8]>,
    pub(super) total: Option<u32>,
    pub(super) moved: Vec<String>,
}

/// Members of an object, by name.
pub(super) struct Members<'a>(Vec<Member<'a>>);

impl<'a> Members<'a> {
    pub(super) fn of(object: &'a [u8]) -> Result<Self, AnswerError> {
        scan::members(object, MAX_MEMBERS).map(Self).map_err(|torn| unparsable(&torn, object))
    }

    /// The value of a member that is there and not null. One that stands twice with two values is an
    /// error; one under another spelling of its name is noted.
    pub(super) fn get(
        &self,
        name: &str,
        moved: &mut Vec<String>,
    ) -> Result<Option<&'a [u8]>, AnswerError> {
        let named = |is: &dyn Fn(&[u8]) -> bool| -> Vec<&'a [u8]> {
            let members = self.0.iter().filter(|(key, value)| is(key) && *value != b"null");
            members.map(|(_, value)| *value).collect()
        };
        let mut values = named(&|key| key == name.as_bytes());
        if values.is_empty() {
            let wanted = plain(name);
            values = named(&|key| plain(&String::from_utf8_lossy(key)) == wanted);
            if !values.is_empty() {
                moved.push(format!("{name} under another name"));
            }
        }
        values.dedup();
        match values[..] {
            [] => Ok(None),
            [value] => Ok(Some(value)),
            _ => Err(AnswerError::Unparsable(format!("has {name} twice"))),
        }
    }

    /// The only member that is a list, and its name.
    fn only_list(&self) -> Option<Member<'a>> {
        let mut lists = self.0.iter().filter(|(_, value)| value.first() == Some(&b'['));
        let first = lists.next().copied();
        first.filter(|_| lists.next().is_none())
    }
}

/// The JSON of a part; `None`: null, no text or no JSON.
pub(super) fn json(part: &[u8]) -> Raw<'_> {
    let text = std::str::from_utf8(part).ok()?;
    serde_json::from_str::<Option<Written<'_>>>(text).ok()?
}

/// `data` and `total` of a successful answer:
/// `{"code":"000000","message":null,"messageDetail":null,"data":…,"total":395,"success":true}`. HTTP 200 says nothing: errors have it too.
pub(super) fn open(bytes: &[u8]) -> Result<Opened<'_>, AnswerError> {
    let members = Members::of(bytes)?;
    let mut moved = Vec::new();
    let mut get = |name| members.get(name, &mut moved);
    let (code, success) = (get("code")?.and_then(json), get("success")?.and_then(json));
    let data = get("data")?;
    // Two of what can be done without are none.
    let message = get("message").unwrap_or_default().and_then(json);
    let total = get("total").unwrap_or_default().and_then(json);
    let is_refused = success.is_some_and(|success| success.get() == "false");
    match value::code(code) {
        Some(code) if code == SUCCESS && !is_refused => {}
        // The code as a number, or left out, if nothing else speaks against it.
        Some(code) if code.bytes().all(|byte| byte == b'0') && !is_refused && data.is_some() => {
            moved.push("code no text".to_owned());
        }
        None if success.is_some_and(|success| success.get() == "true") && data.is_some() => {
            moved.push("code is missing".to_owned());
        }
        Some(code) => {
            let message = message.and_then(|raw| value::text(raw).ok()).unwrap_or_default();
            return Err(AnswerError::Rejected { code, message: message.into_owned() });
        }
        None => return Err(AnswerError::Unparsable("has no code".into())),
    }
    let data = data.ok_or_else(|| AnswerError::Unparsable("has no data".into()))?;
    if total.is_some_and(|total| total.get().starts_with('"')) {
        moved.push("total no number".to_owned());
    }
    Ok(Opened { data, total: total.and_then(value::count), moved })
}

impl<'a> Opened<'a> {
    /// The ads in `data`: a list, or what is wrapped around one.
    pub(super) fn into_items(self) -> Result<Items<'a>, AnswerError> {
        let Self { data, mut total, mut moved } = self;
        let list = if data.first() == Some(&b'{') {
            let members = Members::of(data)?;
            let (name, list) = members
                .only_list()
                .ok_or_else(|| AnswerError::Unparsable("data is no list of ads".into()))?;
            moved.push(format!("data[] at data.{}", String::from_utf8_lossy(name)));
            if total.is_none() {
                let inner = members.get("total", &mut Vec::new()).unwrap_or_default();
                total = inner.and_then(json).and_then(value::count);
            }
            list
        } else {
            data
        };
        let mut items = elements(list)?;
        if let [only] = items[..]
            && only.first() == Some(&b'[')
        {
            moved.push("data[] at data[0]".to_owned());
            items = elements(only)?;
        }
        Ok(Items { items, total, moved })
    }
}

/// The elements of a list of ads.
pub(super) fn elements(list: &[u8]) -> Result<Vec<&[u8]>, AnswerError> {
    scan::elements(list, MAX_ITEMS).map_err(|torn| match torn {
        Torn::Many(_) => AnswerError::Oversized,
        torn => unparsable(&torn, list),
    })
}

fn unparsable(torn: &Torn, bytes: &[u8]) -> AnswerError {
    let start = String::from_utf8_lossy(&bytes[..bytes.len().min(40)]).into_owned();
    AnswerError::Unparsable(format!("{torn}; {} bytes that begin with {start:?}", bytes.len()))
}
