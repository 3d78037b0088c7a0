//! The raw archive: what was asked and what came back, byte for byte, as one zstd frame.
//!
//! Pages are alike: most of their bytes are names of fields, which a dictionary trained on former
//! answers tells in advance. A frame names the dictionary it needs, and a dictionary is kept as long as
//! a frame needs it (`pipeline.raw_dictionaries`).
//!
//! Request, headers and body stand one after the other in the frame, because they are alike from answer
//! to answer too: apart they would cost a column and a header each.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use sqlx::PgExecutor;
use zstd::bulk::{Compressor, Decompressor};
use zstd::dict::DecoderDictionary;
use zstd::zstd_safe::{CParameter, Strategy};

/// Level of what [`SETTINGS`] leaves open: zstd's default.
const LEVEL: i32 = 3;
/// How hard zstd tries, fitted to pages with a dictionary (`bench storage` measures it beside zstd's own
/// levels): as dense as its level 6 in half the time. What repeats in a page are names of fields, so short
/// matches are not worth looking for, and the tables need not be large.
const SETTINGS: [CParameter; 6] = [
    CParameter::Strategy(Strategy::ZSTD_greedy),
    CParameter::WindowLog(17),
    CParameter::HashLog(15),
    CParameter::ChainLog(15),
    CParameter::SearchLog(3),
    CParameter::MinMatch(6),
];
/// Room of each buffer of a packer that is kept for the next transcript: more than a page needs, and what a list
/// of megabytes took goes back.
const KEPT_BYTES: usize = 256 * 1024;
/// Largest dictionary that is trained: zstd's own default. Workers hold it, prepared, in memory.
const DICTIONARY_BYTES: usize = 112_640;
/// Largest transcript that is packed: above every body that a worker takes.
pub const MAX_TRANSCRIPT_BYTES: usize = 16 * 1024 * 1024;

/// A request and its answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transcript {
    /// Method and path with query, a line end, and the body of the request.
    pub request: Vec<u8>,
    /// The headers that are kept, a line each: `name: value`.
    pub headers: Vec<u8>,
    /// The body of the answer, after its transfer compression was undone.
    pub body: Vec<u8>,
}

/// Where the parts of a transcript end, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lengths {
    pub request: usize,
    pub headers: usize,
    pub body: usize,
}

impl Lengths {
    /// From the columns of `pipeline.raw_pages`; `None`: negative, or more than is ever packed.
    #[must_use]
    pub fn from_columns(request: i32, headers: i32, body: i32) -> Option<Self> {
        let length = |bytes: i32| usize::try_from(bytes).ok();
        let lengths =
            Self { request: length(request)?, headers: length(headers)?, body: length(body)? };
        (lengths.total() <= MAX_TRANSCRIPT_BYTES).then_some(lengths)
    }

    /// Bytes of all parts.
    #[must_use]
    pub fn total(self) -> usize {
        self.request.saturating_add(self.headers).saturating_add(self.body)
    }
}

impl Transcript {
    #[must_use]
    pub fn lengths(&self) -> Lengths {
        Lengths { request: self.request.len(), headers: self.headers.len(), body: self.body.len() }
    }

    /// In the order in which they stand in a frame.
    fn parts(&self) -> [&[u8]; 3] {
        [&self.request, &self.headers, &self.body]
    }
}

/// Why a transcript can't be packed or unpacked.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    #[error("the transcript has {0} bytes, allowed are {MAX_TRANSCRIPT_BYTES}")]
    TooLarge(usize),
    #[error("zstd can't pack it")]
    Pack(#[source] io::Error),
    #[error("the archived bytes can't be unpacked")]
    Corrupt(#[source] io::Error),
    #[error("the archived bytes unpack to {found} bytes, {expected} were recorded")]
    OtherLength { found: usize, expected: usize },
    #[error("it was packed with dictionary {needed}, {given} is at hand")]
    OtherDictionary { needed: i32, given: i32 },
    #[error("dictionary {0} is not in the database")]
    NoDictionary(i32),
    #[error("the dictionary can't be used")]
    BadDictionary(#[source] io::Error),
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// A dictionary, prepared to unpack.
pub struct Dictionary {
    id: i32,
    content: Vec<u8>,
    decoder: DecoderDictionary<'static>,
}

impl fmt::Debug for Dictionary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "dictionary {}", self.id)
    }
}

impl Dictionary {
    /// From its bytes, as zstd's training makes them.
    pub fn new(bytes: &[u8]) -> Result<Self, ArchiveError> {
        let no_id = || io::Error::new(io::ErrorKind::InvalidData, "it has no number");
        let id = zstd::zstd_safe::get_dict_id_from_dict(bytes)
            .and_then(|id| i32::try_from(id.get()).ok())
            .ok_or_else(no_id)
            .map_err(ArchiveError::BadDictionary)?;
        Ok(Self {
            id,
            content: bytes.to_vec(),
            decoder: DecoderDictionary::try_copy(bytes).map_err(ArchiveError::BadDictionary)?,
        })
    }

    /// The number that frames made with it name.
    #[must_use]
    pub fn id(&self) -> i32 {
        self.id
    }

    /// Loads a dictionary by its number.
    pub async fn load(executor: impl PgExecutor<'_>, id: i32) -> Result<Self, ArchiveError> {
        let bytes: Option<Vec<u8>> = sqlx::query_scalar(
            "SELECT content FROM pipeline.raw_dictionaries WHERE dictionary_id = $1",
        )
        .bind(id)
        .fetch_optional(executor)
        .await?;
        let dictionary = Self::new(&bytes.ok_or(ArchiveError::NoDictionary(id))?)?;
        if dictionary.id == id {
            Ok(dictionary)
        } else {
            Err(ArchiveError::OtherDictionary { needed: id, given: dictionary.id })
        }
    }
}

/// Transcripts that a dictionary is made of, in one piece as zstd wants them: lists of them would be held twice.
#[derive(Debug, Default)]
pub struct Samples {
    bytes: Vec<u8>,
    lengths: Vec<usize>,
}

impl Samples {
    /// With room for so many bytes: to grow takes half as much again for a moment.
    #[must_use]
    pub fn with_room(bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(bytes), lengths: Vec::new() }
    }

    pub fn add(&mut self, transcript: &Transcript) {
        for part in transcript.parts() {
            self.bytes.extend_from_slice(part);
        }
        self.lengths.push(transcript.lengths().total());
    }

    /// Makes a dictionary out of them. Takes about a second for each 5 MB, and 12 MB beside them.
    pub fn train(&self) -> Result<Vec<u8>, ArchiveError> {
        zstd::dict::from_continuous(&self.bytes, &self.lengths, DICTIONARY_BYTES)
            .map_err(ArchiveError::BadDictionary)
    }
}

impl<'a> FromIterator<&'a Transcript> for Samples {
    fn from_iter<T: IntoIterator<Item = &'a Transcript>>(transcripts: T) -> Self {
        let mut samples = Self::default();
        transcripts.into_iter().for_each(|transcript| samples.add(transcript));
        samples
    }
}

/// Packs transcripts, with or without a dictionary, for any number of tasks: one at a time, so that there is one compressor,
/// which takes a megabyte, and a page keeps the others waiting for 0.2 ms.
pub struct Packer {
    dictionary: Option<Arc<Dictionary>>,
    room: Mutex<Room>,
}

/// What packing takes, used again.
struct Room {
    /// Has learnt the dictionary, which takes as long as packing a hundred pages.
    compressor: Compressor<'static>,
    /// A transcript in one piece.
    whole: Vec<u8>,
    /// Its frame, which takes a tenth of the room that must be there for it.
    frame: Vec<u8>,
}

impl fmt::Debug for Packer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "packer with {:?}", self.dictionary)
    }
}

impl Packer {
    pub fn new(dictionary: Option<Arc<Dictionary>>) -> Result<Self, ArchiveError> {
        let compressor = compressor(dictionary.as_deref()).map_err(match dictionary {
            Some(_) => ArchiveError::BadDictionary,
            None => ArchiveError::Pack,
        })?;
        let room = Mutex::new(Room { compressor, whole: Vec::new(), frame: Vec::new() });
        Ok(Self { dictionary, room })
    }

    /// What unpacking its frames needs.
    #[must_use]
    pub fn dictionary(&self) -> Option<&Arc<Dictionary>> {
        self.dictionary.as_ref()
    }

    /// One transcript as a frame.
    pub fn pack(&self, transcript: &Transcript) -> Result<Vec<u8>, ArchiveError> {
        let total = transcript.lengths().total();
        if total > MAX_TRANSCRIPT_BYTES {
            return Err(ArchiveError::TooLarge(total));
        }
        // Each frame begins anew, whatever became of the one before.
        let mut room = self.room.lock().unwrap_or_else(PoisonError::into_inner);
        let Room { compressor, whole, frame } = &mut *room;
        whole.clear();
        for part in transcript.parts() {
            whole.extend_from_slice(part);
        }
        frame.clear();
        frame.reserve(zstd::zstd_safe::compress_bound(total));
        compressor.compress_to_buffer(whole, frame).map_err(ArchiveError::Pack)?;
        let packed = frame.as_slice().to_vec();
        for buffer in [whole, frame] {
            buffer.clear();
            buffer.shrink_to(KEPT_BYTES);
        }
        Ok(packed)
    }
}

/// A compressor with our settings.
fn compressor(dictionary: Option<&Dictionary>) -> io::Result<Compressor<'static>> {
    let mut compressor = Compressor::new(LEVEL)?;
    for setting in SETTINGS {
        compressor.set_parameter(setting)?;
    }
    if let Some(dictionary) = dictionary {
        compressor.set_dictionary(LEVEL, &dictionary.content)?;
        // It is learnt with the first frame.
        compressor.compress(&[])?;
    }
    Ok(compressor)
}

/// Gives a transcript back. No more memory is used than the lengths say.
pub fn unpack(
    content: &[u8],
    lengths: Lengths,
    dictionary: Option<&Dictionary>,
) -> Result<Transcript, ArchiveError> {
    let needed = zstd::zstd_safe::get_dict_id_from_frame(content)
        .map_or(0, |id| i32::try_from(id.get()).unwrap_or(i32::MAX));
    let given = dictionary.map_or(0, Dictionary::id);
    if needed != 0 && needed != given {
        return Err(ArchiveError::OtherDictionary { needed, given });
    }
    let unpacker = match dictionary {
        Some(dictionary) => Decompressor::with_prepared_dictionary(&dictionary.decoder),
        None => Decompressor::new(),
    };
    let expected = lengths.total();
    let mut whole = unpacker
        .and_then(|mut unpacker| unpacker.decompress(content, expected))
        .map_err(ArchiveError::Corrupt)?;
    if whole.len() != expected {
        return Err(ArchiveError::OtherLength { found: whole.len(), expected });
    }
    let body = whole.split_off(lengths.request + lengths.headers);
    let headers = whole.split_off(lengths.request);
    Ok(Transcript { request: whole, headers, body })
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::*;

    static TRAINED: LazyLock<Arc<Dictionary>> = LazyLock::new(|| {
        let sample = |n: u32| {
            let price = n * 7;
            format!(
                "{{\"advNo\":\"{n}\",\"price\":\"{price}\",\"asset\":\"USDT\",\"fiat\":\"VES\"}}"
            )
        };
        let samples: Vec<String> = (0..500).map(sample).collect();
        Arc::new(Dictionary::new(&zstd::dict::from_samples(&samples, 1_024).unwrap()).unwrap())
    });

    fn pack(transcript: &Transcript, dictionary: Option<&Arc<Dictionary>>) -> Vec<u8> {
        Packer::new(dictionary.cloned()).unwrap().pack(transcript).unwrap()
    }

    proptest! {
        /// Whatever the bytes, they come back as they were, with and without a dictionary.
        #[test]
        fn what_is_packed_comes_back(
            request in prop::collection::vec(any::<u8>(), 0..200),
            headers in prop::collection::vec(any::<u8>(), 0..200),
            body in prop::collection::vec(any::<u8>(), 0..4_000),
        ) {
            let transcript = Transcript { request, headers, body };
            for dictionary in [None, Some(&*TRAINED)] {
                let content = pack(&transcript, dictionary);
                let back = unpack(&content, transcript.lengths(), dictionary.map(Arc::as_ref)).unwrap();
                prop_assert_eq!(&back, &transcript);
            }
        }

        /// Whatever was archived, unpacking it is an answer or an error.
        #[test]
        fn odd_bytes_are_an_error(content in prop::collection::vec(any::<u8>(), 0..500), body in 0_usize..10_000) {
            let lengths = Lengths { request: 0, headers: 0, body };
            if let Ok(transcript) = unpack(&content, lengths, None) {
                prop_assert_eq!(transcript.body.len(), body);
            }
        }
    }

    #[test]
    fn a_frame_names_its_dictionary() {
        let dictionary = &*TRAINED;
        let transcript = Transcript { body: b"{\"advNo\":\"17\"}".to_vec(), ..Default::default() };
        let content = pack(&transcript, Some(dictionary));
        let error = unpack(&content, transcript.lengths(), None).unwrap_err();
        assert!(
            matches!(error, ArchiveError::OtherDictionary { needed, given: 0 } if needed == dictionary.id()),
            "{error}"
        );
    }

    /// However many pack at once and one after the other, each frame is what it would be alone.
    #[test]
    fn packing_may_be_shared() {
        let transcript = |n: usize| Transcript {
            body: format!("{{\"advNo\":\"{n}\",\"asset\":\"USDT\"}}").repeat(40 * n).into_bytes(),
            ..Default::default()
        };
        let alone: Vec<_> = (0..8).map(|n| pack(&transcript(n), Some(&*TRAINED))).collect();
        let packer = Packer::new(Some(Arc::clone(&TRAINED))).unwrap();
        let too_large = vec![0; MAX_TRANSCRIPT_BYTES + 1];
        packer.pack(&Transcript { body: too_large, ..Default::default() }).unwrap_err();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for (n, alone) in alone.iter().enumerate() {
                        assert_eq!(&packer.pack(&transcript(n)).unwrap(), alone);
                    }
                });
            }
        });
    }

    /// What one large transcript took does not stay with the process.
    #[test]
    fn room_is_given_back() {
        let packer = Packer::new(None).unwrap();
        packer.pack(&Transcript { body: vec![7; 4 << 20], ..Default::default() }).unwrap();
        let room = packer.room.lock().unwrap();
        assert!(room.whole.capacity() <= KEPT_BYTES && room.frame.capacity() <= KEPT_BYTES);
    }

    #[test]
    fn a_damaged_frame_is_an_error() {
        let transcript = Transcript { body: vec![7; 5_000], ..Default::default() };
        let mut content = pack(&transcript, None);
        let short = Lengths { body: 4_999, ..transcript.lengths() };
        assert!(matches!(unpack(&content, short, None), Err(ArchiveError::Corrupt(_))));
        let long = Lengths { body: 5_001, ..transcript.lengths() };
        assert!(matches!(unpack(&content, long, None), Err(ArchiveError::OtherLength { .. })));
        content.truncate(content.len() / 2);
        assert!(matches!(
            unpack(&content, transcript.lengths(), None),
            Err(ArchiveError::Corrupt(_))
        ));
    }

    #[test]
    fn what_is_too_large_is_not_packed() {
        let body = vec![0; MAX_TRANSCRIPT_BYTES + 1];
        let transcript = Transcript { body, ..Default::default() };
        let packed = Packer::new(None).unwrap().pack(&transcript);
        assert!(matches!(packed, Err(ArchiveError::TooLarge(_))));
    }
}
