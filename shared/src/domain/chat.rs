//! Chat rules: who is mentioned in a text.

/// Most people one message can mention; more are left out.
const MENTIONS_MAX: usize = 50;

/// The names mentioned as `@name`, in order, once each. Names are Unicode letters, digits, `_`, `-` and `.` inside;
/// text in code spans or blocks and e-mail addresses do not mention anybody.
pub fn mentions(content: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut previous: Option<char> = None;
    let mut rest = content;
    while let Some(c) = rest.chars().next() {
        if c == '`' {
            let ticks = rest.chars().take_while(|c| *c == '`').count();
            let fence = &rest[..ticks];
            rest = &rest[ticks..];
            if let Some(end) = closing(rest, fence) {
                rest = &rest[end..];
            }
            previous = Some('`');
            continue;
        }
        rest = &rest[c.len_utf8()..];
        if c == '@' && !previous.is_some_and(is_word) {
            let length: usize = rest
                .chars()
                .take_while(|c| is_word(*c))
                .map(char::len_utf8)
                .sum();
            let name = rest[..length].trim_end_matches(['.', '-']);
            if !name.is_empty() && found.len() < MENTIONS_MAX && !found.iter().any(|f| f == name) {
                found.push(name.to_owned());
            }
            rest = &rest[length..];
            previous = Some('x');
            continue;
        }
        previous = Some(c);
    }
    found
}

/// Where the code span that `fence` opened ends: behind the next run of exactly as many backticks.
fn closing(text: &str, fence: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] == b'`' {
            let run = bytes[at..].iter().take_while(|b| **b == b'`').count();
            if run == fence.len() {
                return Some(at + run);
            }
            at += run;
        } else {
            at += 1;
        }
    }
    None
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '-' | '.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mentions_are_unicode_and_skip_code_and_mail() {
        assert_eq!(mentions("hi @Ana, @Jürgen."), ["Ana", "Jürgen"]);
        assert_eq!(mentions("`@no` ``a ` @no`` @yes"), ["yes"]);
        assert_eq!(mentions("a@b.c @a @a"), ["a"]);
        assert!(mentions("@ ` @").is_empty());
        assert_eq!(mentions("unclosed ` @still"), ["still"]);
    }
}
