//! What the doctor found, as text and as JSON.

use anyhow::Result;
use serde::Serialize;
use std::fmt::Write;
use std::path::PathBuf;

/// How grave a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Worth knowing; programs run.
    Note,
    /// Something does not work.
    Problem,
}

/// One thing found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What it is about.
    pub topic: &'static str,
    /// How grave it is.
    pub level: Level,
    /// What was found, in one sentence.
    pub text: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Finding {
    /// As it should be.
    pub fn ok(topic: &'static str, text: impl Into<String>) -> Finding {
        Finding { topic, level: Level::Ok, text: text.into(), remedy: None }
    }

    /// Worth knowing.
    pub fn note(topic: &'static str, text: impl Into<String>) -> Finding {
        Finding { topic, level: Level::Note, text: text.into(), remedy: None }
    }

    /// Something does not work, and this helps.
    pub fn problem(topic: &'static str, text: impl Into<String>, remedy: impl Into<String>) -> Finding {
        Finding { topic, level: Level::Problem, text: text.into(), remedy: Some(remedy.into()) }
    }

    /// The same with a remedy.
    pub fn fix(self, remedy: impl Into<String>) -> Finding {
        Finding { remedy: Some(remedy.into()), ..self }
    }
}

/// The driver below the virtual device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DriverFacts {
    /// The library.
    pub path: PathBuf,
    /// The CUDA version that it answers, as 1000 * major + 10 * minor.
    pub version: Option<i32>,
    /// What its cuInit answers.
    pub init: Option<u32>,
    /// Names of its cards.
    pub cards: Vec<String>,
}

/// Everything found.
#[derive(Debug, Default)]
pub struct Report {
    /// One by one.
    pub findings: Vec<Finding>,
    /// `None`: there is no driver to use.
    pub driver: Option<DriverFacts>,
}

impl Report {
    /// Whether nothing stands in the way.
    pub fn is_ok(&self) -> bool {
        self.findings.iter().all(|finding| finding.level != Level::Problem)
    }

    /// For programs.
    pub fn json(&self) -> Result<String> {
        let all = serde_json::json!({
            "version": env!("CARGO_PKG_VERSION"),
            "ok": self.is_ok(),
            "driver": self.driver,
            "findings": self.findings,
        });
        Ok(serde_json::to_string_pretty(&all)? + "\n")
    }

    /// For people: by topic, remedies indented, a verdict at the end.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut topic = "";
        for finding in &self.findings {
            if finding.topic != topic {
                topic = finding.topic;
                writeln!(text, "{topic}").expect("a String takes all");
            }
            let mark = match finding.level {
                Level::Ok => "ok  ",
                Level::Note => "note",
                Level::Problem => "FAIL",
            };
            writeln!(text, "  {mark}  {}", finding.text).expect("a String takes all");
            if let Some(remedy) = &finding.remedy {
                writeln!(text, "        -> {remedy}").expect("a String takes all");
            }
        }
        let problems = self.findings.iter().filter(|finding| finding.level == Level::Problem).count();
        let verdict = match problems {
            0 => "nothing stands in the way".to_string(),
            1 => "1 problem".to_string(),
            many => format!("{many} problems"),
        };
        writeln!(text, "{verdict}").expect("a String takes all");
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_json_say_the_same() {
        let mut report =
            Report { findings: vec![Finding::ok("a", "fine"), Finding::note("a", "hm").fix("do x")], driver: None };
        assert!(report.is_ok());
        assert_eq!(report.text(), "a\n  ok    fine\n  note  hm\n        -> do x\nnothing stands in the way\n");
        report.findings.push(Finding::problem("b", "broken", "mend it"));
        assert!(!report.is_ok());
        assert!(report.text().ends_with("b\n  FAIL  broken\n        -> mend it\n1 problem\n"));
        let json: serde_json::Value = serde_json::from_str(&report.json().unwrap()).unwrap();
        assert_eq!(json["ok"], false);
        let expected = serde_json::json!({"topic": "b", "level": "problem", "text": "broken", "remedy": "mend it"});
        assert_eq!(json["findings"][2], expected);
        assert_eq!(json["findings"][0], serde_json::json!({"topic": "a", "level": "ok", "text": "fine"}));
    }
}
