//! Blocks of code in a page of the guide, and the commands in them.
//!
//! A page shows commands in two kinds of block. In `sh` every line is a command. In `console` a line that begins with `$`
//! is one, the lines after it are what it prints, and `$ echo $?` shows the exit code that it ends with; without, that is
//! 0. Comments are ignored and a backslash continues a line.
//!
//! This file is read twice: by the rule that every command of the guide is one that exists, and, by its path, by the
//! test of the command `bespoke` that runs them. It therefore uses nothing of the crate that it lies in.

/// A block of code.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Block {
    /// Line of its first fence, from 1; of its first line where there is no fence.
    pub(crate) line: usize,
    /// The word after the fence; `None` where the block is only indented.
    pub(crate) language: Option<String>,
    /// What is between the fences.
    pub(crate) lines: Vec<String>,
}

/// A command of a block, and what the page says of it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// Its line in the page, from 1.
    pub(crate) line: usize,
    /// The command without prompt, comment and line breaks.
    pub(crate) command: String,
    /// What it prints; empty if the page does not show it.
    pub(crate) output: Vec<String>,
    /// The exit code.
    pub(crate) code: i32,
}

/// Every block of a page, in order.
pub(crate) fn blocks(page: &str) -> Vec<Block> {
    let mut found: Vec<Block> = Vec::new();
    let (mut fenced, mut indented, mut blank) = (false, false, true);
    for (line, text) in (1..).zip(page.lines()) {
        if let Some(language) = text.trim_start().strip_prefix("```") {
            fenced = !fenced;
            if fenced {
                let language = Some(language.trim().to_owned());
                let lines = Vec::new();
                found.push(Block {
                    line,
                    language,
                    lines,
                });
            }
            indented = false;
        } else if fenced {
            if let Some(block) = found.last_mut() {
                block.lines.push(text.to_owned());
            }
        } else if text.starts_with("    ") && (indented || blank) {
            if !indented {
                let (language, lines) = (None, Vec::new());
                found.push(Block {
                    line,
                    language,
                    lines,
                });
            }
            if let Some(block) = found.last_mut() {
                block.lines.push(text.trim_start().to_owned());
            }
            indented = true;
        } else {
            indented = false;
        }
        blank = text.trim().is_empty();
    }
    found
}

impl Block {
    /// The commands of the block; none if its language has no commands.
    pub(crate) fn steps(&self) -> Vec<Step> {
        let console = match self.language.as_deref() {
            Some("sh") => false,
            Some("console") => true,
            _ => return Vec::new(),
        };
        let mut steps: Vec<Step> = Vec::new();
        let mut lines = (self.line + 1..).zip(&self.lines).peekable();
        while let Some((line, text)) = lines.next() {
            let prompt = text.strip_prefix("$ ");
            let command = match (console, prompt) {
                (true, None) => {
                    if let Some(step) = steps.last_mut() {
                        step.output.push(text.clone());
                    }
                    continue;
                }
                (true, Some(command)) => command,
                (false, _) => text,
            };
            let mut command = without_comment(command).to_owned();
            while let Some(open) = command.strip_suffix('\\') {
                let next = lines.next().map_or("", |(_, next)| without_comment(next));
                command = format!("{} {}", open.trim_end(), next.trim_start());
            }
            if command == "echo $?" {
                let code = lines.next().and_then(|(_, code)| code.trim().parse().ok());
                if let (Some(step), Some(code)) = (steps.last_mut(), code) {
                    step.code = code;
                    continue;
                }
            }
            if !command.is_empty() {
                let (output, code) = (Vec::new(), 0);
                steps.push(Step {
                    line,
                    command,
                    output,
                    code,
                });
            }
        }
        steps
    }
}

/// A line without what follows ` #`.
fn without_comment(line: &str) -> &str {
    let line = line.trim();
    if line.starts_with('#') {
        return "";
    }
    line.split_once(" #").map_or(line, |(code, _)| code.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "\
# A page

    bare

- a list
    that goes on

```sh
# first this
make it    # then that
make \\
  --long
```

```console
$ show it
one
two
$ break it
error: …
$ echo $?
3
```

```text
$ nothing
```
";

    #[test]
    fn blocks_are_found_with_and_without_fences() {
        let found: Vec<(usize, Option<String>, usize)> = blocks(PAGE)
            .into_iter()
            .map(|b| (b.line, b.language, b.lines.len()))
            .collect();
        let named = |name: &str| Some(name.to_owned());
        assert_eq!(
            found,
            [
                (3, None, 1),
                (8, named("sh"), 4),
                (15, named("console"), 7),
                (25, named("text"), 1),
            ]
        );
    }

    #[test]
    fn commands_have_their_output_and_exit_code() {
        let steps: Vec<Step> = blocks(PAGE).iter().flat_map(Block::steps).collect();
        let step = |line, command: &str, output: &[&str], code| Step {
            line,
            command: command.into(),
            output: output.iter().map(|l| (*l).to_owned()).collect(),
            code,
        };
        assert_eq!(
            steps,
            [
                step(10, "make it", &[], 0),
                step(11, "make --long", &[], 0),
                step(16, "show it", &["one", "two"], 0),
                step(19, "break it", &["error: …"], 3),
            ]
        );
    }
}
