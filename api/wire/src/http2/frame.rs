//! Frames: nine bytes of head, and a payload.

/// Bytes of a frame's head.
pub const HEAD: usize = 9;

/// Kinds of frames (RFC 9113, section 6).
pub mod kind {
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PUSH_PROMISE: u8 = 5;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

/// Flags of frames.
pub mod flag {
    /// Of SETTINGS and PING.
    pub const ACK: u8 = 0x1;
    pub const END_STREAM: u8 = 0x1;
    pub const END_HEADERS: u8 = 0x4;
    pub const PADDED: u8 = 0x8;
    pub const PRIORITY: u8 = 0x20;
}

/// Settings (RFC 9113, section 6.5.2).
pub mod setting {
    pub const HEADER_TABLE_SIZE: u16 = 1;
    pub const ENABLE_PUSH: u16 = 2;
    pub const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub const INITIAL_WINDOW_SIZE: u16 = 4;
    pub const MAX_FRAME_SIZE: u16 = 5;
    pub const MAX_HEADER_LIST_SIZE: u16 = 6;
}

/// Why a stream or a connection ends (RFC 9113, section 7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Reason {
    NoError = 0,
    Protocol = 1,
    Internal = 2,
    FlowControl = 3,
    StreamClosed = 5,
    FrameSize = 6,
    Refused = 7,
    Cancel = 8,
    Compression = 9,
    EnhanceYourCalm = 11,
}

/// The head of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Bytes of the payload, below 2^24.
    pub length: usize,
    pub kind: u8,
    pub flags: u8,
    /// 0 for the connection.
    pub stream: u32,
}

impl Head {
    /// The head at the beginning of what has come; `None` while it is not all there.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let [a, b, c, kind, flags, stream @ ..] = *bytes.first_chunk::<HEAD>()?;
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        Some(Head { length, kind, flags, stream: u32::from_be_bytes(stream) & (u32::MAX >> 1) })
    }

    /// As it goes on the wire.
    pub fn bytes(self) -> [u8; HEAD] {
        let [_, a, b, c] = (self.length as u32).to_be_bytes();
        let [s, t, u, v] = self.stream.to_be_bytes();
        [a, b, c, self.kind, self.flags, s, t, u, v]
    }

    /// Whether all of a flag's bits are set.
    pub fn has(self, flag: u8) -> bool {
        self.flags & flag == flag
    }
}

/// A frame with a short payload, whole.
pub fn short<const N: usize>(kind: u8, flags: u8, stream: u32, payload: [u8; N], out: &mut impl Extend<u8>) {
    out.extend(Head { length: N, kind, flags, stream }.bytes());
    out.extend(payload);
}

/// A frame of settings.
pub fn settings(settings: &[(u16, u32)], out: &mut Vec<u8>) {
    out.extend(Head { length: 6 * settings.len(), kind: kind::SETTINGS, flags: 0, stream: 0 }.bytes());
    for (name, value) in settings {
        out.extend(name.to_be_bytes());
        out.extend(value.to_be_bytes());
    }
}

/// What a padded payload holds (RFC 9113, section 6.1): how many bytes of padding are behind it. The length byte in front
/// is to be passed over by the caller.
///
/// # Errors
/// [`Reason::Protocol`] where there is more padding than payload, [`Reason::FrameSize`] where even the length is missing.
pub fn padding(payload: &[u8]) -> Result<usize, Reason> {
    let (length, rest) = payload.split_first().ok_or(Reason::FrameSize)?;
    let length = usize::from(*length);
    if length > rest.len() { Err(Reason::Protocol) } else { Ok(length) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read_as_they_are_written() {
        let head = Head { length: 0x01_02_03, kind: kind::DATA, flags: flag::END_STREAM, stream: 0x7fff_fff1 };
        assert_eq!(head.bytes(), [1, 2, 3, 0, 1, 0x7f, 0xff, 0xff, 0xf1]);
        assert_eq!(Head::read(&head.bytes()), Some(head));
        assert_eq!(Head::read(&head.bytes()[..8]), None);
        // The first bit of a stream's number says nothing.
        assert_eq!(Head::read(&[0, 0, 0, 0, 0, 0x80, 0, 0, 3]).unwrap().stream, 3);
    }

    #[test]
    fn padding_is_never_more_than_there_is() {
        assert_eq!(padding(&[0]), Ok(0));
        assert_eq!(padding(&[2, 1, 0, 0]), Ok(2));
        assert_eq!(padding(&[3, 0, 0]), Err(Reason::Protocol));
        assert_eq!(padding(&[]), Err(Reason::FrameSize));
    }
}
