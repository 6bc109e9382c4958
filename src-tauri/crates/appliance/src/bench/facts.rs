//! Facts in a long text: where they stand, how they are asked for, and how an answer is scored, which is exact: the right numbers in
//! the right order, and nothing else. Called by the runner.

use serde_json::{Value, json};

use super::{
    fill::Frame,
    prose::Dice,
    types::{BenchScore, BenchTask},
};

const PLACES: [&str; 5] = ["north store", "boat shed", "old chapel", "glass house", "pump room"];
const TREES: [&str; 12] = [
    "Alder", "Birch", "Cedar", "Hazel", "Juniper", "Larch", "Linden", "Maple", "Poplar", "Rowan", "Spruce",
    "Willow",
];

/// A text with facts in it, and the question.
#[derive(Debug, Clone)]
pub(crate) struct Hunt {
    /// What is asked.
    pub task: BenchTask,
    /// Of the numbers.
    pub seed: u64,
}

impl Hunt {
    /// The number of a place.
    fn code(&self, place: usize) -> u32 {
        10_000 + Dice::new(self.seed.wrapping_add(place as u64 * 7919)).below(90_000) as u32
    }

    /// Where the facts stand, as shares of the text.
    fn places(&self) -> Vec<(usize, f64)> {
        match self.task {
            BenchTask::Start => vec![(0, 0.0)],
            BenchTask::Middle => vec![(0, 0.5)],
            BenchTask::End => vec![(0, 1.0)],
            BenchTask::Five => (0..5).map(|place| (place, 0.1 + 0.2 * place as f64)).collect(),
            BenchTask::Lost => Vec::new(),
        }
    }

    /// One of very many records that are alike: its name and its number.
    fn record(&self, index: usize) -> (String, u32) {
        let mut dice = Dice::new(self.seed ^ (index as u64).wrapping_mul(0x2545_f491_4f6c_dd1d));
        (
            format!("{} locker {}", TREES[index % TREES.len()], 100 + index),
            100_000 + dice.below(900_000) as u32,
        )
    }

    /// The numbers that are right, for a text of so many sentences.
    pub(crate) fn expected(&self, sentences: usize) -> Vec<u32> {
        match self.task {
            BenchTask::Lost => vec![self.record(sentences / 2).1],
            _ => self.places().iter().map(|(place, _)| self.code(*place)).collect(),
        }
    }

    fn question(&self, sentences: usize) -> String {
        match self.task {
            BenchTask::Lost => {
                let name = self.record(sentences / 2).0;
                format!("What is the code of {name}? Answer with the number alone.")
            }
            BenchTask::Five => format!(
                "What are the access codes of the {}? Answer with the five numbers alone, in this order, separated by spaces.",
                PLACES.join(", of the ")
            ),
            _ => format!("What is the access code of the {}? Answer with the number alone.", PLACES[0]),
        }
    }

    fn text(&self, sentences: &[String]) -> String {
        if self.task == BenchTask::Lost {
            let records = (0..=sentences.len()).map(|index| {
                let (name, code) = self.record(index);
                format!("The code of {name} is {code}.\n")
            });
            return records.collect();
        }
        let mut text = String::new();
        let mut facts = self.places().into_iter().peekable();
        for at in 0..=sentences.len() {
            while facts.peek().is_some_and(|(_, share)| at as f64 >= share * sentences.len() as f64) {
                let Some((place, _)) = facts.next() else { break };
                text += &format!(" The access code of the {} is {}.", PLACES[place], self.code(place));
            }
            text += sentences.get(at).map_or("", String::as_str);
        }
        text
    }

    /// Judges an answer.
    pub(crate) fn score(&self, answer: &str, sentences: usize) -> BenchScore {
        let expected = self.expected(sentences);
        let found = numbers(answer);
        let right = match found.len() == expected.len() {
            true => expected.iter().zip(&found).filter(|(a, b)| a == b).count(),
            false => 0,
        };
        BenchScore { right: right as u32, of: expected.len() as u32 }
    }
}

impl Frame for Hunt {
    fn messages(&self, sentences: &[String], pad: &str) -> Value {
        let text = self.text(sentences);
        let content = format!(
            "Read this text. A question about it follows.\n\n{text}{pad}\n\n{}",
            self.question(sentences.len())
        );
        json!([{ "role": "user", "content": content }])
    }
}

/// The whole numbers in a text; a comma or a thin space between three digits belongs to the number.
fn numbers(text: &str) -> Vec<u32> {
    let chars: Vec<char> = text.chars().collect();
    let (mut found, mut digits) = (Vec::new(), String::new());
    for (i, c) in chars.iter().enumerate() {
        let groups = matches!(c, ',' | '\u{202f}' | '\u{2009}')
            && !digits.is_empty()
            && chars[i + 1..].iter().take_while(|c| c.is_ascii_digit()).count() == 3;
        if c.is_ascii_digit() {
            digits.push(*c);
        } else if !groups && !digits.is_empty() {
            found.extend(digits.parse::<u32>().ok());
            digits.clear();
        }
    }
    found.extend(digits.parse::<u32>().ok());
    found
}

#[cfg(test)]
mod tests {
    use super::{super::prose, *};

    fn content(hunt: &Hunt, count: usize) -> String {
        hunt.messages(&prose::sentences(3, count), "")[0]["content"].as_str().unwrap().to_owned()
    }

    #[test]
    fn facts_stand_where_the_task_says() {
        for (task, low, high) in
            [(BenchTask::Start, 0.0, 0.02), (BenchTask::Middle, 0.47, 0.53), (BenchTask::End, 0.96, 1.0)]
        {
            let hunt = Hunt { task, seed: 9 };
            let text = content(&hunt, 400);
            let code = hunt.expected(400)[0].to_string();
            assert_eq!(text.matches(&code).count(), 1);
            let at = text.find(&code).unwrap() as f64 / text.len() as f64;
            assert!((low..=high).contains(&at), "{task:?} at {at}");
        }
        let hunt = Hunt { task: BenchTask::Five, seed: 9 };
        let text = content(&hunt, 400);
        let at: Vec<usize> =
            hunt.expected(400).iter().map(|code| text.find(&code.to_string()).unwrap()).collect();
        assert!(at.len() == 5 && at.windows(2).all(|pair| pair[0] < pair[1]), "{at:?}");
        assert!(text.contains("of the pump room?"));
    }

    #[test]
    fn the_lost_record_is_one_of_many_alike_and_in_the_middle() {
        let hunt = Hunt { task: BenchTask::Lost, seed: 4 };
        let text = content(&hunt, 600);
        assert_eq!(text.matches("The code of ").count(), 601);
        let code = hunt.expected(600)[0].to_string();
        let at = text.find(&code).unwrap() as f64 / text.len() as f64;
        assert!((0.45..0.55).contains(&at), "{at}");
    }

    #[test]
    fn only_the_exact_answer_counts() {
        let one = Hunt { task: BenchTask::Middle, seed: 1 };
        let code = one.expected(10)[0];
        let right = |answer: &str| one.score(answer, 10).right;
        assert_eq!(right(&code.to_string()), 1);
        assert_eq!(right(&format!("The access code is **{code}**.")), 1);
        let text = code.to_string();
        assert_eq!(right(&format!("{},{}", &text[..2], &text[2..])), 1);
        assert_eq!(right(&(code + 1).to_string()), 0);
        assert_eq!(right(&format!("{code} or {}", code + 1)), 0, "a guess of two is no answer");
        assert_eq!(right(&format!("{code}0")), 0);
        assert_eq!(right(""), 0);
        let five = Hunt { task: BenchTask::Five, seed: 1 };
        let mut codes = five.expected(10);
        let said = |codes: &[u32]| codes.iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
        assert_eq!(five.score(&said(&codes), 10), BenchScore { right: 5, of: 5 });
        codes[3] += 1;
        assert_eq!(five.score(&said(&codes), 10).right, 4);
        assert_eq!(five.score(&said(&codes[..4]), 10).right, 0, "four numbers do not say which is missing");
    }
}
