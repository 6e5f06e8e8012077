//! The class that a Java file's program starts in: its own name, in the package that it declares.

/// `entry` is a path like `src/Main.java`, `source` its text.
pub fn class(entry: &str, source: &[u8]) -> String {
    let file = entry.rsplit('/').next().unwrap_or(entry);
    let name = file.rsplit_once('.').map_or(file, |(stem, _)| stem);
    match declared(&String::from_utf8_lossy(source)) {
        Some(package) => format!("{package}.{name}"),
        None => name.to_owned(),
    }
}

/// The name in `package name;`, which stands before everything but comments.
fn declared(source: &str) -> Option<String> {
    let mut rest = source.trim_start_matches('\u{feff}').trim_start();
    loop {
        let end = if rest.starts_with("//") {
            "\n"
        } else if rest.starts_with("/*") {
            "*/"
        } else {
            break;
        };
        let (_, behind) = rest.split_once(end)?;
        rest = behind.trim_start();
    }
    let named = rest.strip_prefix("package")?;
    let (named, _) = named.split_once(';')?;
    if !named.starts_with(char::is_whitespace) {
        return None;
    }
    let name: String = named.split_whitespace().collect();
    let plain = |part: &str| {
        !part.is_empty()
            && part
                .chars()
                .all(|c| c.is_alphanumeric() || matches!(c, '_' | '$'))
    };
    name.split('.').all(plain).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_is_named_with_its_package() {
        for (entry, source, name) in [
            ("Main.java", "class Main {}", "Main"),
            ("src/Main.java", "class Main {}", "Main"),
            (
                "Main.java",
                "// package no;\n/* package no; */ package a.b ;\nclass Main {}",
                "a.b.Main",
            ),
            ("a/b/Main.java", "package a.b; class Main {}", "a.b.Main"),
            ("Main.java", "packages a; class Main {}", "Main"),
            ("Main.java", "package -Xmx1; class Main {}", "Main"),
            ("Main.java", "/* package a;", "Main"),
        ] {
            assert_eq!(class(entry, source.as_bytes()), name, "{source}");
        }
    }
}
