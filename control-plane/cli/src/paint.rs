//! Colours, for terminals only: what is piped or redirected is plain text.

use std::{
    env,
    fmt::{self, Display},
    io::{self, IsTerminal},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Colour {
    Plain,
    Green,
    Yellow,
    Red,
}

/// Whether to paint.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Paint {
    is_on: bool,
}

impl Paint {
    /// On a terminal, unless the user wants none anywhere (`NO_COLOR`, <https://no-color.org>).
    pub(crate) fn for_stdout() -> Self {
        let is_unwanted = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { is_on: io::stdout().is_terminal() && !is_unwanted }
    }

    pub(crate) fn on<T: Display>(self, colour: Colour, text: T) -> Painted<T> {
        Painted { colour: if self.is_on { colour } else { Colour::Plain }, text }
    }
}

#[derive(Debug)]
pub(crate) struct Painted<T> {
    colour: Colour,
    text: T,
}

impl<T: Display> Display for Painted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // ECMA-48, 8.3.117.
        let code = match self.colour {
            Colour::Plain => return self.text.fmt(f),
            Colour::Green => 32,
            Colour::Yellow => 33,
            Colour::Red => 31,
        };
        write!(f, "\x1b[{code}m{}\x1b[0m", self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_painted_unless_it_is_wanted() {
        assert_eq!(Paint::default().on(Colour::Red, "no").to_string(), "no");
        assert_eq!(Paint { is_on: true }.on(Colour::Red, "no").to_string(), "\x1b[31mno\x1b[0m");
        assert_eq!(Paint { is_on: true }.on(Colour::Plain, "no").to_string(), "no");
    }
}
