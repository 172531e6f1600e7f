//! The fields of protobuf messages, in the one form in which every writer gives them.
//!
//! Readers differ in what they make of other forms: the C++ one drops the high bits of a tag and merges messages that
//! come twice. Bytes that are judged here and used by another reader must be read alike by both, so a number that is
//! longer than it need be is an error, as is every tag or length that does not fit.

/// The bytes are no whole message, or not in the one form.
#[derive(Debug)]
pub struct Malformed;

/// What a field holds, by the wire.
pub enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    Fixed32,
    Fixed64,
}

/// The fields of one message, in file order.
pub struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (head, tail) = self.0.split_at_checked(count).ok_or(Malformed)?;
        self.0 = tail;
        Ok(head)
    }

    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            // The tenth byte has room for one bit.
            if (byte == 0 && shift > 0) || (shift == 63 && byte > 1) {
                return Err(Malformed);
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Malformed)
    }

    fn field(&mut self) -> Result<(u32, Value<'a>), Malformed> {
        let tag = u32::try_from(self.varint()?).map_err(|_| Malformed)?;
        let value = match tag & 7 {
            0 => Value::Number(self.varint()?),
            1 => self.take(8).map(|_| Value::Fixed64)?,
            2 => {
                let length = i32::try_from(self.varint()?).map_err(|_| Malformed)?;
                Value::Bytes(self.take(usize::try_from(length).map_err(|_| Malformed)?)?)
            }
            5 => self.take(4).map(|_| Value::Fixed32)?,
            _ => return Err(Malformed),
        };
        match tag >> 3 {
            0 => Err(Malformed),
            number => Ok((number, value)),
        }
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, Value<'a>), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

#[cfg(test)]
mod tests {
    use super::Fields;

    fn is_read(bytes: &[u8]) -> bool {
        Fields(bytes).all(|field| field.is_ok())
    }

    #[test]
    fn every_number_has_one_form() {
        for good in [
            &[0x08, 0x00][..],
            &[0x08, 0x80, 0x01],
            // -1, the longest number.
            &[
                0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01,
            ],
            // The highest field number.
            &[0xf8, 0xff, 0xff, 0xff, 0x0f, 0x07],
            &[0x0a, 0x01, 0x78],
            &[0x0d, 1, 2, 3, 4],
            &[0x09, 1, 2, 3, 4, 5, 6, 7, 8],
        ] {
            assert!(is_read(good), "{good:02x?}");
        }
        for bad in [
            // 0 and 1 with a byte more, as value, tag and length.
            &[0x08, 0x80, 0x00][..],
            &[0x88, 0x00, 0x00],
            &[0x0a, 0x81, 0x00, 0x78],
            // Beyond 64 bits: a value of ten bytes and two bits, one of eleven bytes.
            &[
                0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x03,
            ],
            &[
                0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x81, 0x01,
            ],
            // Field 1 with bit 32 of the tag set: C++ reads field 1.
            &[0x88, 0x80, 0x80, 0x80, 0x10, 0x00],
            // Field 0, a group, its end, and wire types that are none.
            &[0x00, 0x00],
            &[0x0b, 0x0c],
            &[0x0c],
            &[0x0e, 0x00],
            &[0x0f, 0x00],
            // Longer than the message, and than any.
            &[0x0a, 0x02, 0x78],
            &[0x0a, 0x80, 0x80, 0x80, 0x80, 0x08],
            &[0x0d, 1, 2, 3],
        ] {
            assert!(!is_read(bad), "{bad:02x?}");
        }
    }
}
