//! Text to fill prompts with: sentences of a made-up almanac, as many as wanted, never the same twice in a row, and another text for
//! every seed, so that no cache knows it. Called by `fill`.

const WHO: [&str; 24] = [
    "The harbour master",
    "A travelling clockmaker",
    "The keeper of the northern light",
    "Her youngest brother",
    "An old surveyor",
    "The baker on the corner",
    "A crew of three",
    "The night watchman",
    "Our neighbour from the mill",
    "A student of geology",
    "The ferryman",
    "The council of the valley",
    "A painter from the coast",
    "The station's only porter",
    "The widow at number nine",
    "A teacher of mathematics",
    "The new apprentice",
    "A dealer in maps",
    "The gardener's daughter",
    "A retired engineer",
    "The postman",
    "Nobody in the village",
    "The choir of the old town",
    "A patient beekeeper",
];
const DID: [&str; 24] = [
    "measured",
    "repaired",
    "described",
    "carried away",
    "forgot",
    "exchanged",
    "inspected",
    "painted",
    "sold",
    "counted",
    "hid",
    "discovered",
    "ordered",
    "returned",
    "drew",
    "cleaned",
    "borrowed",
    "wrapped up",
    "wrote about",
    "warned of",
    "waited for",
    "bought",
    "tested",
    "laughed at",
];
const WHAT: [&str; 24] = [
    "a cracked barometer",
    "the longest of the ropes",
    "two crates of oranges",
    "the broken weather vane",
    "an unsigned letter",
    "the level of the river",
    "a box of brass screws",
    "the old timetable",
    "a pair of heavy boots",
    "the bell of the chapel",
    "a map without names",
    "the last lamp oil",
    "a basket of wet laundry",
    "the accounts of the year",
    "a wooden boat",
    "the stones of the wall",
    "a recipe for rye bread",
    "the window towards the sea",
    "a jar of honey",
    "the signal on the hill",
    "a small telescope",
    "the keys of the archive",
    "a bundle of newspapers",
    "the height of the tide",
];
const WHEN: [&str; 16] = [
    "before breakfast",
    "late in the autumn",
    "during the long strike",
    "on the second day of the fair",
    "while the snow was melting",
    "after the train had gone",
    "without telling anyone",
    "for the third time that week",
    "in spite of the wind",
    "as the custom requires",
    "between two storms",
    "at the request of the mayor",
    "when the market closed",
    "with the help of a mule",
    "just as the lights went out",
    "in the year of the great frost",
];
const WHY: [&str; 16] = [
    "because the bridge was still closed",
    "so that the children could cross in safety",
    "although it had rained since Tuesday",
    "and nobody asked what it had cost",
    "which the newspaper mentioned in one line",
    "since the other road was under water",
    "and the matter was settled by evening",
    "but the report was never read",
    "as had been agreed in writing",
    "for reasons that became clear only later",
    "and a dog followed all the way home",
    "which surprised the older people most",
    "until the ice began to break",
    "and the price of salt rose again",
    "because the spare part was too short",
    "and everyone slept well that night",
];

/// A source of numbers that are the same for the same seed (splitmix64, Steele, Lea and Flood 2014).
#[derive(Debug, Clone)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to below `n`.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    fn of<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words[self.below(words.len())]
    }
}

/// The first `count` sentences of the text of a seed, in paragraphs of eight.
pub(crate) fn sentences(seed: u64, count: usize) -> Vec<String> {
    let mut dice = Dice::new(seed);
    (0..count)
        .map(|i| {
            let sentence = format!(
                "{} {} {} {}, {}.",
                dice.of(&WHO),
                dice.of(&DID),
                dice.of(&WHAT),
                dice.of(&WHEN),
                dice.of(&WHY)
            );
            let gap = match i {
                0 => "",
                i if i % 8 == 0 => "\n\n",
                _ => " ",
            };
            format!("{gap}{sentence}")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_has_its_own_text_and_the_same_one_every_time() {
        let text = |seed, count| sentences(seed, count).concat();
        assert_eq!(text(1, 50), text(1, 50));
        assert!(text(1, 50).starts_with(&text(1, 20)), "a longer text begins like a shorter one");
        let (one, two) = (text(1, 50), text(2, 50));
        let same = one.bytes().zip(two.bytes()).take_while(|(a, b)| a == b).count();
        assert!(same < 60, "two texts part within the first sentence");
        let mut all = sentences(7, 1000);
        all.iter_mut().for_each(|sentence| *sentence = sentence.trim().to_owned());
        all.sort();
        all.dedup();
        assert!(all.len() > 950, "hardly a sentence comes twice: {}", all.len());
    }
}
