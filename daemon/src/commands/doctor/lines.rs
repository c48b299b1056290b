//! What `doctor` found, line by line.

/// How a probe ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Good,
    Warning,
    Bad,
}

pub(crate) struct Line {
    pub(crate) area: String,
    pub(crate) check: String,
    pub(crate) state: State,
    pub(crate) detail: String,
    pub(crate) fix: Option<String>,
}

/// What was found.
#[derive(Default)]
pub(crate) struct Lines(pub(crate) Vec<Line>);

impl Lines {
    fn add(&mut self, area: &str, check: &str, state: State, detail: impl Into<String>) -> &mut Option<String> {
        let (area, check) = (area.to_owned(), check.to_owned());
        self.0.push(Line { area, check, state, detail: detail.into(), fix: None });
        let last = self.0.len() - 1;
        &mut self.0[last].fix
    }

    pub(crate) fn good(&mut self, area: &str, check: &str, detail: impl Into<String>) {
        self.add(area, check, State::Good, detail);
    }

    /// The states, in order.
    #[cfg(test)]
    pub(crate) fn states(&self) -> Vec<State> {
        self.0.iter().map(|line| line.state).collect()
    }

    /// Good, and it could be better.
    pub(crate) fn advice(&mut self, area: &str, check: &str, detail: impl Into<String>, fix: &str) {
        *self.add(area, check, State::Good, detail) = Some(fix.to_owned());
    }

    pub(crate) fn warning(&mut self, area: &str, check: &str, detail: impl Into<String>, fix: &str) {
        *self.add(area, check, State::Warning, detail) = Some(fix.to_owned());
    }

    pub(crate) fn failed(&mut self, area: &str, check: &str, detail: impl Into<String>, fix: &str) {
        *self.add(area, check, State::Bad, detail) = Some(fix.to_owned());
    }
}
