//! One Parquet file: columns of a few kinds, filled row by row and written group by group, so that
//! memory holds one group. Hashed while it is written, under a name that says it is not whole.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, ensure};
use chrono::{DateTime, NaiveDate, Utc};
use parquet::basic::{Compression, ZstdLevel};
use parquet::data_type::{
    BoolType, ByteArray, ByteArrayType, DataType, FixedLenByteArray, FixedLenByteArrayType,
    Int32Type, Int64Type,
};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;
use rust_decimal::Decimal;
use serde::Serialize;
use sha2::{Digest, Sha256};
use sqlx::Row;
use sqlx::postgres::PgRow;

/// Rows of a group: about half a batch of the whole market, some tens of MB while it is filled.
const ROWS_PER_GROUP: usize = 16_384;
/// What `NUMERIC(20,8)` takes in two's complement: 10^20 is below 2^71.
const DECIMAL_BYTES: usize = 9;
const DECIMAL_SCALE: u32 = 8;
/// What stands behind the name of a file that is not whole.
pub(super) const PARTIAL: &str = ".partial";

/// What a column holds. Every column may hold NULL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Bool,
    Int16,
    Int32,
    Int64,
    /// `NUMERIC(20,8)`, exact.
    Decimal,
    Text,
    Date,
    /// With time zone: microseconds in UTC.
    Timestamp,
    Int16List,
    Int32List,
    TextList,
}

impl Kind {
    /// Of a column in `PostgreSQL`; `None`: it goes as text.
    pub(super) fn of(sql_type: &str) -> Option<Self> {
        Some(match sql_type {
            "boolean" => Self::Bool,
            "smallint" => Self::Int16,
            "integer" => Self::Int32,
            "bigint" => Self::Int64,
            "numeric(20,8)" => Self::Decimal,
            "text" => Self::Text,
            "date" => Self::Date,
            "timestamp with time zone" => Self::Timestamp,
            "smallint[]" => Self::Int16List,
            "integer[]" => Self::Int32List,
            "text[]" => Self::TextList,
            _ => return None,
        })
    }

    fn schema(self, name: &str) -> String {
        let list = |element: &str| {
            format!(
                "optional group {name} (LIST) {{ repeated group list {{ optional {element}; }} }}"
            )
        };
        match self {
            Self::Bool => format!("optional boolean {name};"),
            Self::Int16 => format!("optional int32 {name} (INTEGER(16,true));"),
            Self::Int32 => format!("optional int32 {name};"),
            Self::Int64 => format!("optional int64 {name};"),
            Self::Decimal => format!(
                "optional fixed_len_byte_array({DECIMAL_BYTES}) {name} (DECIMAL(20,{DECIMAL_SCALE}));"
            ),
            Self::Text => format!("optional binary {name} (STRING);"),
            Self::Date => format!("optional int32 {name} (DATE);"),
            Self::Timestamp => format!("optional int64 {name} (TIMESTAMP(MICROS,true));"),
            Self::Int16List => list("int32 element (INTEGER(16,true))"),
            Self::Int32List => list("int32 element"),
            Self::TextList => list("binary element (STRING)"),
        }
    }

    /// As the manifest tells it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Bool => "boolean",
            Self::Int16 => "int16",
            Self::Int32 => "int32",
            Self::Int64 => "int64",
            Self::Decimal => "decimal(20,8)",
            Self::Text => "string",
            Self::Date => "date",
            Self::Timestamp => "timestamp(us, UTC)",
            Self::Int16List => "list<int16>",
            Self::Int32List => "list<int32>",
            Self::TextList => "list<string>",
        }
    }
}

/// A column of a file.
#[derive(Clone, Debug)]
pub(super) struct Column {
    pub(super) name: String,
    /// What it is in the query.
    pub(super) expression: String,
    pub(super) kind: Kind,
}

/// A file that is whole, as the manifest tells it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Written {
    pub(super) name: String,
    pub(super) rows: u64,
    pub(super) bytes: u64,
    pub(super) sha256: String,
    pub(super) columns: Vec<WrittenColumn>,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct WrittenColumn {
    name: String,
    r#type: &'static str,
}

/// Values of one column, with the levels that say which rows have one.
struct Values<T> {
    values: Vec<T>,
    definition: Vec<i16>,
    /// Of lists: 0 begins a row.
    repetition: Vec<i16>,
}

impl<T> Values<T> {
    fn new() -> Self {
        Self { values: Vec::new(), definition: Vec::new(), repetition: Vec::new() }
    }

    fn push(&mut self, value: Option<T>) {
        self.definition.push(i16::from(value.is_some()));
        self.values.extend(value);
    }

    /// A list: absent 0, empty 1, an absent element 2, an element 3.
    fn push_list<S>(&mut self, list: Option<Vec<Option<S>>>, value: impl Fn(S) -> T) {
        let elements = list.as_ref().map(Vec::len);
        if elements.is_none_or(|elements| elements == 0) {
            self.repetition.push(0);
            self.definition.push(i16::from(elements.is_some()));
        }
        for (index, element) in list.into_iter().flatten().enumerate() {
            self.repetition.push(i16::from(index > 0));
            self.definition.push(if element.is_some() { 3 } else { 2 });
            self.values.extend(element.map(&value));
        }
    }
}

enum Buffer {
    Bool(Values<bool>),
    Int32(Values<i32>),
    Int64(Values<i64>),
    Decimal(Values<FixedLenByteArray>),
    Bytes(Values<ByteArray>),
}

impl Buffer {
    fn new(kind: Kind) -> Self {
        match kind {
            Kind::Bool => Self::Bool(Values::new()),
            Kind::Int16 | Kind::Int32 | Kind::Date | Kind::Int16List | Kind::Int32List => {
                Self::Int32(Values::new())
            }
            Kind::Int64 | Kind::Timestamp => Self::Int64(Values::new()),
            Kind::Decimal => Self::Decimal(Values::new()),
            Kind::Text | Kind::TextList => Self::Bytes(Values::new()),
        }
    }

    fn push(&mut self, kind: Kind, row: &PgRow, index: usize) -> anyhow::Result<()> {
        let text = |text: String| ByteArray::from(text.into_bytes());
        match (self, kind) {
            (Self::Bool(values), Kind::Bool) => values.push(row.try_get(index)?),
            (Self::Int32(values), Kind::Int16) => {
                values.push(row.try_get::<Option<i16>, _>(index)?.map(i32::from));
            }
            (Self::Int32(values), Kind::Int32) => values.push(row.try_get(index)?),
            (Self::Int32(values), Kind::Date) => {
                let date: Option<NaiveDate> = row.try_get(index)?;
                let days = date.map(|date| i32::try_from((date - NaiveDate::default()).num_days()));
                values.push(days.transpose()?);
            }
            (Self::Int64(values), Kind::Int64) => values.push(row.try_get(index)?),
            (Self::Int64(values), Kind::Timestamp) => {
                let at: Option<DateTime<Utc>> = row.try_get(index)?;
                values.push(at.map(|at| at.timestamp_micros()));
            }
            (Self::Decimal(values), Kind::Decimal) => {
                let number: Option<Decimal> = row.try_get(index)?;
                values.push(number.map(decimal).transpose()?);
            }
            (Self::Bytes(values), Kind::Text) => {
                values.push(row.try_get::<Option<String>, _>(index)?.map(text));
            }
            (Self::Int32(values), Kind::Int16List) => {
                values.push_list(row.try_get::<Option<Vec<Option<i16>>>, _>(index)?, i32::from);
            }
            (Self::Int32(values), Kind::Int32List) => {
                values.push_list(row.try_get::<Option<Vec<Option<i32>>>, _>(index)?, |id| id);
            }
            (Self::Bytes(values), Kind::TextList) => {
                values.push_list(row.try_get::<Option<Vec<Option<String>>>, _>(index)?, text);
            }
            _ => unreachable!("a buffer is made for the kind of its column"),
        }
        Ok(())
    }

    fn write(
        &mut self,
        group: &mut SerializedRowGroupWriter<'_, impl Write + Send>,
    ) -> parquet::errors::Result<()> {
        match self {
            Self::Bool(values) => write_column::<BoolType>(values, group),
            Self::Int32(values) => write_column::<Int32Type>(values, group),
            Self::Int64(values) => write_column::<Int64Type>(values, group),
            Self::Decimal(values) => write_column::<FixedLenByteArrayType>(values, group),
            Self::Bytes(values) => write_column::<ByteArrayType>(values, group),
        }
    }
}

fn write_column<T: DataType>(
    values: &mut Values<T::T>,
    group: &mut SerializedRowGroupWriter<'_, impl Write + Send>,
) -> parquet::errors::Result<()> {
    let Values { values: column, definition, repetition } = values;
    if let Some(mut writer) = group.next_column()? {
        let repeated = (!repetition.is_empty()).then_some(repetition.as_slice());
        writer.typed::<T>().write_batch(column, Some(definition), repeated)?;
        writer.close()?;
    }
    column.clear();
    definition.clear();
    repetition.clear();
    Ok(())
}

/// In two's complement, the highest byte first, as Parquet has decimals.
fn decimal(number: Decimal) -> anyhow::Result<FixedLenByteArray> {
    let mut scaled = number;
    scaled.rescale(DECIMAL_SCALE);
    ensure!(scaled == number, "{number} has more than {DECIMAL_SCALE} decimals");
    let bytes = scaled.mantissa().to_be_bytes();
    let (above, kept) = bytes.split_at(bytes.len() - DECIMAL_BYTES);
    let sign = if scaled.is_sign_negative() && !scaled.is_zero() { 0xff } else { 0 };
    ensure!(above.iter().all(|byte| *byte == sign), "{number} has more than 20 digits");
    Ok(ByteArray::from(kept.to_vec()).into())
}

/// Bytes on their way into a file, hashed and counted.
struct Hashing {
    file: BufWriter<File>,
    hash: Sha256,
    bytes: u64,
}

impl Write for Hashing {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        let written = self.file.write(buffer)?;
        self.hash.update(&buffer[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

/// A file while it is filled.
pub(super) struct Table {
    name: String,
    path: PathBuf,
    columns: Vec<Column>,
    buffers: Vec<Buffer>,
    /// Rows in the buffers.
    pending: usize,
    rows: u64,
    writer: SerializedFileWriter<Hashing>,
}

impl Table {
    /// Begins `name` in `directory`, under its name for what is not whole.
    pub(super) fn create(
        directory: &Path,
        name: &str,
        columns: Vec<Column>,
    ) -> anyhow::Result<Self> {
        let path = directory.join(format!("{name}{PARTIAL}"));
        let file = File::create(&path).with_context(|| format!("create {}", path.display()))?;
        let fields: String =
            columns.iter().map(|column| column.kind.schema(&column.name)).collect();
        let schema = parse_message_type(&format!("message row {{ {fields} }}"))?;
        // Nothing in it that differs from run to run: equal rows give equal bytes.
        let properties = WriterProperties::builder()
            .set_created_by(format!("p2p {}", env!("CARGO_PKG_VERSION")))
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .build();
        let sink = Hashing { file: BufWriter::new(file), hash: Sha256::new(), bytes: 0 };
        let writer = SerializedFileWriter::new(sink, Arc::new(schema), Arc::new(properties))?;
        let buffers = columns.iter().map(|column| Buffer::new(column.kind)).collect();
        Ok(Self { name: name.to_owned(), path, columns, buffers, pending: 0, rows: 0, writer })
    }

    /// A row whose columns come in the order of this table's.
    pub(super) fn push(&mut self, row: &PgRow) -> anyhow::Result<()> {
        for (index, (column, buffer)) in self.columns.iter().zip(&mut self.buffers).enumerate() {
            buffer
                .push(column.kind, row, index)
                .with_context(|| format!("column {} of {}", column.name, self.name))?;
        }
        self.pending += 1;
        if self.pending == ROWS_PER_GROUP { self.write_group() } else { Ok(()) }
    }

    fn write_group(&mut self) -> anyhow::Result<()> {
        if self.pending == 0 {
            return Ok(());
        }
        let mut group = || -> parquet::errors::Result<()> {
            let mut group = self.writer.next_row_group()?;
            for buffer in &mut self.buffers {
                buffer.write(&mut group)?;
            }
            group.close()?;
            Ok(())
        };
        group().with_context(|| format!("write {}", self.path.display()))?;
        self.rows += self.pending as u64;
        self.pending = 0;
        Ok(())
    }

    /// Writes the rest and the end, and waits until the disk has it.
    pub(super) fn finish(mut self) -> anyhow::Result<Written> {
        self.write_group()?;
        let at = || format!("write {}", self.path.display());
        let mut sink = self.writer.into_inner().with_context(at)?;
        sink.flush().with_context(at)?;
        sink.file.get_ref().sync_all().with_context(at)?;
        let hash = sink.hash.finalize();
        let column =
            |column: Column| WrittenColumn { name: column.name, r#type: column.kind.as_str() };
        Ok(Written {
            name: self.name,
            rows: self.rows,
            bytes: sink.bytes,
            sha256: format!("{hash:x}"),
            columns: self.columns.into_iter().map(column).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_are_exact_or_refused() {
        let bytes =
            |text: &str| decimal(text.parse().unwrap()).map(|number| number.data().to_vec());
        assert_eq!(bytes("0").unwrap(), [0; 9]);
        assert_eq!(bytes("0.00000001").unwrap(), [0, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(bytes("-0.00000001").unwrap(), [0xff; 9]);
        assert_eq!(bytes("1.5").unwrap(), [0, 0, 0, 0, 0, 8, 0xf0, 0xd1, 0x80]);
        let largest = bytes("999999999999.99999999").unwrap();
        assert_eq!(largest, [0x05, 0x6b, 0xc7, 0x5e, 0x2d, 0x63, 0x0f, 0xff, 0xff]);
        assert!(bytes("0.000000001").is_err());
        assert!(bytes("99999999999999.99999999").is_err());
    }

    #[test]
    fn every_kind_has_a_schema() {
        for kind in [
            Kind::Bool,
            Kind::Int16,
            Kind::Int32,
            Kind::Int64,
            Kind::Decimal,
            Kind::Text,
            Kind::Date,
            Kind::Timestamp,
            Kind::Int16List,
            Kind::Int32List,
            Kind::TextList,
        ] {
            let schema = format!("message row {{ {} }}", kind.schema("x"));
            parse_message_type(&schema).unwrap_or_else(|error| panic!("{schema}: {error}"));
        }
    }
}
