//! Huffman's code of header texts (RFC 7541, section 5.2 and appendix B).
//!
//! The code is canonical: codes of one length follow each other in the order of their symbols, and each length begins
//! where the one before ends. So the lengths are all that need be written down.

use std::sync::LazyLock;

use super::hpack::Malformed;

/// Bits of each byte's code, and of the end's at last.
#[rustfmt::skip]
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
];

/// Bits of the longest code.
const LONGEST: usize = 30;
/// Bits that the first look takes in: the codes of letters, digits and the like are no longer.
const LOOK: usize = 8;
/// The symbol that ends a text. It is never sent.
const END: u16 = 256;

struct Code {
    /// Of each length: its first code, and the place of that code's symbol among all.
    first: [(u32, usize); LONGEST + 2],
    /// All symbols in the order of their codes.
    symbols: Vec<u16>,
    /// By the next bits: a symbol and the bits of its code; none where that is longer.
    look: Vec<Option<(u8, u8)>>,
}

static CODE: LazyLock<Code> = LazyLock::new(|| {
    let mut symbols: Vec<u16> = (0..=END).collect();
    symbols.sort_by_key(|symbol| (LENGTHS[usize::from(*symbol)], *symbol));
    let (mut code, mut place) = (0, 0);
    let mut first = [(0, 0); LONGEST + 2];
    let mut look = vec![None; 1 << LOOK];
    for (length, begin) in first.iter_mut().enumerate().skip(1) {
        code <<= 1;
        *begin = (code, place);
        while let Some(symbol) =
            symbols.get(place).filter(|symbol| usize::from(LENGTHS[usize::from(**symbol)]) == length)
        {
            if length <= LOOK {
                let from = (code as usize) << (LOOK - length);
                look[from..from + (1 << (LOOK - length))].fill(Some((*symbol as u8, length as u8)));
            }
            code += 1;
            place += 1;
        }
    }
    Code { first, symbols, look }
});

/// Appends the text that `coded` stands for.
///
/// # Errors
/// Where it holds the end's code, or does not end with less than a byte of ones.
pub(super) fn decode(coded: &[u8], out: &mut Vec<u8>) -> Result<(), Malformed> {
    let code = &*CODE;
    let (mut bits, mut have) = (0_u64, 0_usize);
    let mut bytes = coded.iter();
    loop {
        while have <= 56
            && let Some(byte) = bytes.next()
        {
            bits = bits << 8 | u64::from(*byte);
            have += 8;
        }
        if have >= LOOK
            && let Some((symbol, length)) = code.look[(bits >> (have - LOOK)) as usize & ((1 << LOOK) - 1)]
        {
            out.push(symbol);
            have -= usize::from(length);
            continue;
        }
        match code.long(bits, have) {
            Some((END, _)) => return Err(Malformed),
            Some((symbol, length)) => {
                out.push(symbol as u8);
                have -= length;
            }
            None => {
                let rest = bits & ((1 << have) - 1);
                return if have < 8 && rest == (1 << have) - 1 { Ok(()) } else { Err(Malformed) };
            }
        }
    }
}

impl Code {
    /// The symbol at the beginning of the last `have` bits, and the bits of its code; `None` where they end before.
    fn long(&self, bits: u64, have: usize) -> Option<(u16, usize)> {
        (1..=have.min(LONGEST)).find_map(|length| {
            let code = (bits >> (have - length)) as u32 & (u32::MAX >> (32 - length));
            let (first, place) = self.first[length];
            let (next, end) = self.first[length + 1];
            let count = (end - place) as u32;
            debug_assert_eq!(next, (first + count) << 1);
            let at = code.checked_sub(first).filter(|at| *at < count)?;
            Some((self.symbols[place + at as usize], length))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Codes a text, as the other side would.
    fn encode(text: &[u8]) -> Vec<u8> {
        let mut bits = Vec::new();
        for byte in text {
            let length = usize::from(LENGTHS[usize::from(*byte)]);
            let place = CODE.symbols.iter().position(|symbol| *symbol == u16::from(*byte)).unwrap();
            let (first, from) = CODE.first[length];
            let code = first + (place - from) as u32;
            bits.extend((0..length).rev().map(|bit| code >> bit & 1 == 1));
        }
        bits.resize(bits.len().next_multiple_of(8), true);
        bits.chunks(8).map(|bits| bits.iter().fold(0, |byte, bit| byte << 1 | u8::from(*bit))).collect()
    }

    fn decoded(coded: &[u8]) -> Result<Vec<u8>, Malformed> {
        let mut out = Vec::new();
        decode(coded, &mut out).map(|()| out)
    }

    #[test]
    fn the_examples_of_the_standard_are_read() {
        let coded = [0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff];
        assert_eq!(decoded(&coded).unwrap(), b"www.example.com");
        assert_eq!(decoded(&[0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf]).unwrap(), b"no-cache");
        assert_eq!(decoded(&[0x25, 0xa8, 0x49, 0xe9, 0x5b, 0xb8, 0xe8, 0xb4, 0xbf]).unwrap(), b"custom-value");
        assert_eq!(encode(b"www.example.com"), coded);
    }

    #[test]
    fn every_byte_is_read_wherever_it_stands() {
        for byte in 0..=255 {
            for around in [&b""[..], b"a", b"zz", &[0, 255, 10]] {
                let text = [around, &[byte], around, &[byte, byte]].concat();
                assert_eq!(decoded(&encode(&text)).unwrap(), text);
            }
        }
    }

    #[test]
    fn what_is_no_text_is_refused() {
        // The end's code; a whole byte of padding; padding that is not of ones.
        for wrong in [&[0xff, 0xff, 0xff, 0xff][..], &[0xff], &[0x1f, 0xff], &[0x18]] {
            assert_eq!(decoded(wrong), Err(Malformed), "{wrong:x?}");
        }
        assert_eq!(decoded(&[]).unwrap(), b"");
        assert_eq!(decoded(&[0x1f]).unwrap(), b"a");
    }
}
