//! CRC-32C (Castagnoli): the checksum of etcd's `HashKV` and of RocksDB's log records.

const POLYNOMIAL: u32 = 0x82f6_3b78;

/// `TABLES[n][byte]`: what a byte with `n` zero bytes behind it adds.
static TABLES: [[u32; 256]; 8] = tables();

const fn tables() -> [[u32; 256]; 8] {
    let mut tables = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ POLYNOMIAL } else { crc >> 1 };
            bit += 1;
        }
        tables[0][byte] = crc;
        byte += 1;
    }
    let mut zeros = 1;
    while zeros < 8 {
        let mut byte = 0;
        while byte < 256 {
            let before = tables[zeros - 1][byte];
            tables[zeros][byte] = before >> 8 ^ tables[0][(before & 0xff) as usize];
            byte += 1;
        }
        zeros += 1;
    }
    tables
}

/// Goes on with one byte; begins with all ones, and the checksum is the complement.
pub(crate) fn step(crc: u32, byte: u8) -> u32 {
    TABLES[0][((crc ^ u32::from(byte)) & 0xff) as usize] ^ crc >> 8
}

/// A checksum that is being made, eight bytes at a time.
pub(crate) struct Crc(u32);

impl Crc {
    pub fn new() -> Crc {
        Crc(!0)
    }

    pub fn add(&mut self, bytes: &[u8]) {
        let (chunks, rest) = bytes.as_chunks::<8>();
        for chunk in chunks {
            let low = self.0 ^ u32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]);
            let [a, b, c, d] = low.to_le_bytes();
            let front = [a, b, c, d, chunk[4], chunk[5], chunk[6], chunk[7]];
            self.0 = (0..8).fold(0, |crc, index| crc ^ TABLES[7 - index][front[index] as usize]);
        }
        self.0 = rest.iter().fold(self.0, |crc, byte| step(crc, *byte));
    }

    pub fn end(self) -> u32 {
        !self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crc(bytes: &[u8]) -> u32 {
        let mut crc = Crc::new();
        crc.add(bytes);
        crc.end()
    }

    /// The test vectors of RFC 3720, appendix B.4.
    #[test]
    fn known_values() {
        assert_eq!(crc(b""), 0);
        assert_eq!(crc(b"123456789"), 0xe306_9283);
        assert_eq!(crc(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc(&[0xff; 32]), 0x62a8_ab43);
        let ascending: Vec<u8> = (0..32).collect();
        assert_eq!(crc(&ascending), 0x46dd_794e);
    }

    #[test]
    fn pieces_add_up() {
        let bytes: Vec<u8> = (0..100).collect();
        for cut in 0..bytes.len() {
            let mut crc = Crc::new();
            crc.add(&bytes[..cut]);
            crc.add(&bytes[cut..]);
            assert_eq!(crc.end(), self::crc(&bytes), "cut at {cut}");
        }
    }
}
