//! A main stream made by hand, piece by piece.

use super::pages::Page;

/// The section id of RAM; any number will do.
pub const RAM_ID: u32 = 2;
/// The section id of the one device.
pub const DEVICE_ID: u32 = 9;

// Kinds of section.
const START: u8 = 1;
const PART: u8 = 2;
const END: u8 = 3;
const FULL: u8 = 4;
const FOOTER: u8 = 0x7e;

// Records of RAM sections.
pub const ZERO: u64 = 0x002;
pub const MEM_SIZE: u64 = 0x004;
pub const PAGE: u64 = 0x008;
pub const EOS: u64 = 0x010;
pub const CONTINUE: u64 = 0x020;
pub const FLUSH: u64 = 0x200;

/// What the one device's section holds.
pub const DEVICE_BODY: &[u8] = b"state of the timer";

/// The bytes of a main stream so far.
#[derive(Debug, Clone, Default)]
pub struct MainStream {
    pub bytes: Vec<u8>,
}

impl MainStream {
    /// File header and configuration.
    pub fn new() -> Self {
        Self::default().raw(b"QEVM\0\0\0\x03\x07\0\0\0\x0apc-q35-9.2")
    }

    /// Any bytes.
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// A name with its length.
    pub fn name(self, name: &str) -> Self {
        self.raw(&[name.len() as u8]).raw(name.as_bytes())
    }

    /// A 64-bit number: the head of a record, a length.
    pub fn number(self, number: u64) -> Self {
        self.raw(&number.to_be_bytes())
    }

    /// The machine's UUID, directly behind the configuration.
    pub fn uuid(self, uuid: [u8; 16]) -> Self {
        self.raw(&[5]).name("configuration/uuid").raw(&1_u32.to_be_bytes()).raw(&uuid)
    }

    /// A command with its payload.
    pub fn command(self, command: u16, payload: &[u8]) -> Self {
        let len = payload.len() as u16;
        self.raw(&[8]).raw(&command.to_be_bytes()).raw(&len.to_be_bytes()).raw(payload)
    }

    /// What a source sends that reads answers: OPEN_RETURN_PATH and a PING.
    pub fn return_path(self) -> Self {
        self.command(1, &[]).command(2, &1_u32.to_be_bytes())
    }

    /// The head of the START section of RAM.
    pub fn start_head(self) -> Self {
        self.section_head(START, RAM_ID, "ram", 4)
    }

    /// The head of a START or FULL section.
    pub fn section_head(self, kind: u8, id: u32, name: &str, version: u32) -> Self {
        self.raw(&[kind])
            .raw(&id.to_be_bytes())
            .name(name)
            .raw(&0_u32.to_be_bytes())
            .raw(&version.to_be_bytes())
    }

    /// START of RAM with the list of blocks (names and pages).
    pub fn start(self, blocks: &[(&str, u64)]) -> Self {
        let total: u64 = blocks.iter().map(|block| block.1 * 4096).sum();
        let list = self.start_head().number(total | MEM_SIZE);
        blocks.iter().fold(list, |list, block| list.name(block.0).number(block.1 * 4096))
    }

    /// The head of a PART section of RAM.
    pub fn part(self) -> Self {
        self.raw(&[PART]).raw(&RAM_ID.to_be_bytes())
    }

    /// The head of the END section of RAM.
    pub fn end(self) -> Self {
        self.raw(&[END]).raw(&RAM_ID.to_be_bytes())
    }

    /// A FLUSH record.
    pub fn flush(self) -> Self {
        self.number(FLUSH)
    }

    /// EOS, and the footer of a RAM section.
    pub fn close(self) -> Self {
        self.number(EOS).footer(RAM_ID)
    }

    /// A footer.
    pub fn footer(self, id: u32) -> Self {
        self.raw(&[FOOTER]).raw(&id.to_be_bytes())
    }

    /// A ZERO record that names its block.
    pub fn zero(self, block: &str, page: u64) -> Self {
        self.number((page * 4096) | ZERO).name(block).raw(&[0])
    }

    /// A ZERO record of the same block as before.
    pub fn zero_more(self, page: u64) -> Self {
        self.number((page * 4096) | ZERO | CONTINUE).raw(&[0])
    }

    /// A PAGE record that names its block.
    pub fn page(self, block: &str, page: u64, content: &Page) -> Self {
        self.number((page * 4096) | PAGE).name(block).raw(content)
    }

    /// A PAGE record of the same block as before.
    pub fn page_more(self, page: u64, content: &Page) -> Self {
        self.number((page * 4096) | PAGE | CONTINUE).raw(content)
    }

    /// One device section.
    pub fn device(self) -> Self {
        self.section_head(FULL, DEVICE_ID, "timer", 2).raw(DEVICE_BODY).footer(DEVICE_ID)
    }

    /// The EOF byte.
    pub fn eof(self) -> Self {
        self.raw(&[0])
    }

    /// The description of the one device section.
    pub fn vmdesc(self) -> Self {
        let json = format!(
            r#"{{"page_size": 4096, "devices": [{{"name": "timer", "instance_id": 0,
                "vmsd_name": "timer", "version": 2,
                "fields": [{{"name": "all", "type": "buffer", "size": {}}}]}}]}}"#,
            DEVICE_BODY.len()
        );
        self.raw(&[6]).raw(&(json.len() as u32).to_be_bytes()).raw(json.as_bytes())
    }

    /// Everything behind the END section.
    pub fn finish(self) -> Self {
        self.device().eof().vmdesc()
    }
}
