//! FlatBuffers as they lie in memory (flatbuffers.dev, "FlatBuffer Binaries"), looked at without a schema's code. Every offset is
//! compared with the buffer's end before it is followed; a field that leads out of the buffer is an error.

/// A buffer, and a table in it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Table<'a> {
    buffer: &'a [u8],
    at: usize,
    /// The offsets of its fields from `at`, 2 bytes each; what is not there has its default.
    fields: &'a [u8],
}

/// A vector of tables or strings.
#[derive(Debug, Clone, Copy)]
pub(super) struct List<'a> {
    buffer: &'a [u8],
    at: usize,
    len: usize,
}

/// It leads out of the buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Outside;

type Result<T> = std::result::Result<T, Outside>;

impl<'a> Table<'a> {
    pub(super) fn root(buffer: &'a [u8]) -> Result<Self> {
        Self::at(buffer, follow(buffer, 0)?)
    }

    fn at(buffer: &'a [u8], at: usize) -> Result<Self> {
        let back = i64::from(i32::from_le_bytes(array(buffer, at)?));
        let vtable =
            i64::try_from(at).ok().and_then(|at| usize::try_from(at.checked_sub(back)?).ok()).ok_or(Outside)?;
        let len = usize::from(u16::from_le_bytes(array(buffer, vtable)?));
        // Its own length and the table's come first.
        let fields = vtable.checked_add(4).zip(vtable.checked_add(len)).and_then(|(from, to)| buffer.get(from..to));
        Ok(Self { buffer, at, fields: fields.ok_or(Outside)? })
    }

    /// Where the field lies, if it is there.
    fn field(&self, number: usize) -> Result<Option<usize>> {
        let Some(offset) = self.fields.get(number * 2..number * 2 + 2).and_then(<[u8]>::first_chunk) else {
            return Ok(None);
        };
        match usize::from(u16::from_le_bytes(*offset)) {
            0 => Ok(None),
            offset => self.at.checked_add(offset).map(Some).ok_or(Outside),
        }
    }

    pub(super) fn i64(&self, number: usize) -> Result<i64> {
        self.field(number)?.map_or(Ok(0), |at| Ok(i64::from_le_bytes(array(self.buffer, at)?)))
    }

    pub(super) fn u32(&self, number: usize) -> Result<u32> {
        self.field(number)?.map_or(Ok(0), |at| Ok(u32::from_le_bytes(array(self.buffer, at)?)))
    }

    pub(super) fn u8(&self, number: usize, default: u8) -> Result<u8> {
        let Some(at) = self.field(number)? else { return Ok(default) };
        let [byte] = array(self.buffer, at)?;
        Ok(byte)
    }

    /// A string, or a vector of bytes; empty if it is not there.
    pub(super) fn bytes(&self, number: usize) -> Result<&'a [u8]> {
        self.field(number)?.map_or(Ok(&[]), |at| bytes(self.buffer, follow(self.buffer, at)?))
    }

    pub(super) fn table(&self, number: usize) -> Result<Option<Self>> {
        self.field(number)?.map(|at| Self::at(self.buffer, follow(self.buffer, at)?)).transpose()
    }

    /// A vector of tables or strings; empty if it is not there.
    pub(super) fn list(&self, number: usize) -> Result<List<'a>> {
        let Some(at) = self.field(number)? else { return Ok(List { buffer: self.buffer, at: 0, len: 0 }) };
        let at = follow(self.buffer, at)?;
        let len = u32::from_le_bytes(array(self.buffer, at)?) as usize;
        let at = at.checked_add(4).ok_or(Outside)?;
        let end = len.checked_mul(4).and_then(|bytes| at.checked_add(bytes)).ok_or(Outside)?;
        self.buffer.get(at..end).ok_or(Outside)?;
        Ok(List { buffer: self.buffer, at, len })
    }
}

impl<'a> List<'a> {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn tables(self) -> impl Iterator<Item = Result<Table<'a>>> {
        (0..self.len).map(move |n| Table::at(self.buffer, follow(self.buffer, self.at + n * 4)?))
    }

    pub(super) fn strings(self) -> impl Iterator<Item = Result<&'a [u8]>> {
        (0..self.len).map(move |n| bytes(self.buffer, follow(self.buffer, self.at + n * 4)?))
    }
}

fn array<const N: usize>(buffer: &[u8], at: usize) -> Result<[u8; N]> {
    buffer.get(at..).and_then(<[u8]>::first_chunk).copied().ok_or(Outside)
}

/// Where the offset at `at` leads.
fn follow(buffer: &[u8], at: usize) -> Result<usize> {
    at.checked_add(u32::from_le_bytes(array(buffer, at)?) as usize).filter(|to| *to < buffer.len()).ok_or(Outside)
}

fn bytes(buffer: &[u8], at: usize) -> Result<&[u8]> {
    let len = u32::from_le_bytes(array(buffer, at)?) as usize;
    let from = at.checked_add(4).ok_or(Outside)?;
    buffer.get(from..from.checked_add(len).ok_or(Outside)?).ok_or(Outside)
}
