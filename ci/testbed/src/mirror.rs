//! Where this machine gets Debian packages from, read out of apt's own sources. It fetches nothing.

use std::fs;
use std::path::Path;

/// The Debian release whose packages the testbed is made of, whatever the machine itself runs.
pub(crate) const RELEASE: &str = "bookworm";

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The two archives a Debian system is installed from.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Mirrors {
    main: String,
    security: String,
}

/// One source of apt's: where it is, and which suites are taken from there.
struct Source {
    uri: String,
    suites: Vec<String>,
}

impl Mirrors {
    /// The machine's own mirrors where `etc_apt` names them, else Debian's.
    pub(crate) fn of_system(etc_apt: &Path) -> Self {
        let mut texts = vec![(etc_apt.join("sources.list"), false)];
        let parts = fs::read_dir(etc_apt.join("sources.list.d"));
        let mut parts: Vec<_> = parts.into_iter().flatten().flatten().map(|e| e.path()).collect();
        parts.sort();
        texts.extend(parts.into_iter().filter_map(|path| match path.extension()?.to_str()? {
            "list" => Some((path, false)),
            "sources" => Some((path, true)),
            _ => None,
        }));
        let sources = texts.iter().flat_map(|(path, stanzas)| {
            let text = fs::read_to_string(path).unwrap_or_default();
            if *stanzas { of_stanzas(&text) } else { of_lines(&text) }
        });
        Self::choose(&sources.collect::<Vec<_>>())
    }

    fn choose(sources: &[Source]) -> Self {
        let find = |suite: &str, default: &str| {
            let has = |source: &&Source| source.suites.iter().any(|s| s == suite);
            let found = sources.iter().find(has).map(|source| source.uri.clone());
            found.unwrap_or_else(|| default.to_owned())
        };
        Self {
            main: find(RELEASE, "http://deb.debian.org/debian"),
            security: find(&format!("{RELEASE}-security"), "http://deb.debian.org/debian-security"),
        }
    }

    /// The text of a sources.list of these archives' `main` component.
    pub(crate) fn sources_list(&self) -> String {
        let options = match Path::new(KEYRING).exists() {
            true => format!("[arch=amd64 signed-by={KEYRING}]"),
            false => "[arch=amd64]".to_owned(),
        };
        let Self { main, security } = self;
        format!("deb {options} {main} {RELEASE} main\ndeb {options} {security} {RELEASE}-security main\n")
    }
}

/// A mirror which apt can fetch from by itself, and which carries the free packages.
fn usable(uri: &str, components: &[&str]) -> bool {
    !uri.starts_with("cdrom:") && components.contains(&"main")
}

/// The one-line style: `deb [options] uri suite component...`.
fn of_lines(text: &str) -> Vec<Source> {
    let source = |line: &str| {
        let rest = line.trim().strip_prefix("deb ")?.trim_start();
        let rest = match rest.strip_prefix('[') {
            Some(options) => options.split_once(']')?.1,
            None => rest,
        };
        let mut words = rest.split_whitespace();
        let (uri, suite) = (words.next()?, words.next()?);
        let components: Vec<&str> = words.collect();
        usable(uri, &components).then(|| Source { uri: uri.to_owned(), suites: vec![suite.to_owned()] })
    };
    text.lines().filter_map(source).collect()
}

/// The deb822 style: stanzas of `Field: value`, a value going on in lines that start with a space.
fn of_stanzas(text: &str) -> Vec<Source> {
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let stanzas = lines.split(|line| line.trim().is_empty());
    stanzas.filter_map(of_stanza).collect()
}

fn of_stanza(lines: &[&str]) -> Option<Source> {
    let field = |name: &str| -> Vec<&str> {
        let is_it = |line: &&str| {
            let key = line.split_once(':').map(|(key, _)| key);
            key.is_some_and(|key| key.eq_ignore_ascii_case(name))
        };
        let Some(start) = lines.iter().position(is_it) else { return Vec::new() };
        let first = lines[start].split_once(':').map_or("", |(_, value)| value);
        let more = lines[start + 1..].iter().take_while(|line| line.starts_with([' ', '\t']));
        first.split_whitespace().chain(more.flat_map(|line| line.split_whitespace())).collect()
    };
    let enabled = !field("Enabled").first().is_some_and(|v| v.eq_ignore_ascii_case("no"));
    let uri = field("URIs").first().copied()?.to_owned();
    let wanted = enabled && field("Types").contains(&"deb") && usable(&uri, &field("Components"));
    let suites = field("Suites").into_iter().map(str::to_owned).collect();
    wanted.then_some(Source { uri, suites })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mirrors(main: &str, security: &str) -> Mirrors {
        Mirrors { main: main.to_owned(), security: security.to_owned() }
    }

    #[test]
    fn both_styles_of_sources_name_the_mirrors() {
        let lines = "# deb http://old/ bookworm main\n\
            deb cdrom:[Debian]/ bookworm main\n\
            deb [arch=amd64 signed-by=/k] http://mirror/debian bookworm main contrib\n\
            deb-src http://src/ bookworm main\ndeb http://mirror/sec bookworm-security main\n";
        let stanzas = "Types: deb\nURIs: http://mirror/debian\nSuites: bookworm bookworm-updates\n\
            Components: main\n\n# a comment\nTypes: deb deb-src\nURIs: http://mirror/sec\n\
            Suites: other\n bookworm-security\nComponents: main\n\n\
            Types: deb\nURIs: http://third/\nSuites: nodistro\nComponents: main\n";
        let expected = mirrors("http://mirror/debian", "http://mirror/sec");
        assert_eq!(Mirrors::choose(&of_lines(lines)), expected);
        assert_eq!(Mirrors::choose(&of_stanzas(stanzas)), expected);
    }

    #[test]
    fn a_machine_of_another_release_uses_the_public_mirrors() {
        let stanzas = "Enabled: no\nTypes: deb\nURIs: http://off/\nSuites: bookworm\nComponents: main\n\n\
            Types: deb\nURIs: http://m/\nSuites: trixie\nComponents: main\n";
        let public = mirrors("http://deb.debian.org/debian", "http://deb.debian.org/debian-security");
        assert_eq!(Mirrors::choose(&of_stanzas(stanzas)), public);
        assert_eq!(Mirrors::of_system(Path::new("/nonexistent")), public);
    }
}
