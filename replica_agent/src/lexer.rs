//! Where the parts of an SQL text end whose inside is not SQL: strings, quoted names, comments. Pure.
//!
//! In: any text. Out: lengths in bytes; what does not end goes to the end of the text.

/// The length of the string, quoted name or comment that begins at this place, if one does.
pub fn opaque(text: &str, at: usize) -> Option<usize> {
    let (before, rest) = (&text.as_bytes()[..at], &text[at..]);
    match rest.as_bytes() {
        [b'\'', ..] => Some(quoted(rest, b'\'', is_escape_string(before))),
        [b'"', ..] => Some(quoted(rest, b'"', false)),
        [b'-', b'-', ..] => Some(line(rest)),
        [b'/', b'*', ..] => Some(comment(rest)),
        [b'$', ..] => dollar_quoted(rest),
        _ => None,
    }
}

/// May it stand in a name that is not quoted? Digits and dollars may not begin one.
pub fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

/// The length of the name or number that begins here.
pub fn word(text: &str) -> usize {
    text.bytes().take_while(|b| is_word(*b) || *b == b'$').count()
}

/// Is the quote that follows that of E'...'?
fn is_escape_string(before: &[u8]) -> bool {
    matches!(before, [.., b'e' | b'E']) && !matches!(before, [.., b, _] if is_word(*b))
}

/// A line, its end included.
pub fn line(text: &str) -> usize {
    text.find('\n').map_or(text.len(), |end| end + 1)
}

fn quoted(text: &str, quote: u8, escapes: bool) -> usize {
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            // A doubled quote ends one literal and begins another, which comes to the same.
            _ if byte == quote && !escaped => return at + 1,
            _ => escaped = escapes && byte == b'\\' && !escaped,
        }
    }
    text.len()
}

/// Comments nest.
pub fn comment(text: &str) -> usize {
    let bytes = text.as_bytes();
    let (mut at, mut depth) = (0, 0);
    while at + 1 < bytes.len() {
        match &bytes[at..at + 2] {
            b"/*" => depth += 1,
            b"*/" => depth -= 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
        if depth == 0 {
            return at;
        }
    }
    text.len()
}

/// `$tag$ ... $tag$`; a dollar that begins no such thing stands for itself.
fn dollar_quoted(text: &str) -> Option<usize> {
    let tag = text.bytes().skip(1).take_while(|byte| is_word(*byte)).count();
    let begin = tag + 2;
    if text.as_bytes().get(begin - 1) != Some(&b'$') || text.as_bytes()[1].is_ascii_digit() {
        return None;
    }
    let end = text[begin..].find(&text[..begin]);
    Some(end.map_or(text.len(), |end| begin + end + begin))
}
