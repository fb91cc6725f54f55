"""Every text that the product can tell a human, taken from its sources.

A text is a string literal with words in it, wherever it stands in the product's code outside tests. What is no message
to a human is left out by the call that it is given to (`SILENT`) or by its file (`ELSEWHERE`): a new text counts until
somebody says that it does not.
"""

import ast
import re

from world import ROOT

RUST = ("src", "shim/src", "crates/*/src", "tests/softcuda/src")
PYTHON = ("shim/python/spaces", "packaging/python/zerogpu")

# Calls whose texts are no messages: remarks of the trace, ordinary lines of the log, faults of ours, answers on stdout,
# help of metrics, where a profile's numbers come from.
SILENT = {"explain", "explain_once", "bind_by", "tell", "span", "counter", "message", "line", "expect"}
SILENT |= {"register", "register_with_unit", "derived"}
SILENT |= {f"{name}!" for name in ("info", "debug", "trace", "println", "print", "writeln", "unreachable", "panic")}
SILENT |= {f"{debug}assert{kind}!" for debug in ("", "debug_") for kind in ("", "_eq", "_ne")}
# Calls whose texts are messages, be they of one word.
TOLD = {"error", "set_reason", "complain", "context", "with_context", "Err", "map_err", "ok_or", "ok_or_else"}
TOLD |= {f"{name}!" for name in ("bail", "anyhow", "ensure", "eprintln", "eprint", "warn", "error")}

# Folders and files whose texts are no messages, each with what they are.
ELSEWHERE = {
    "src/cmd/doctor": "findings, which need a remedy to be made",
    "src/cmd/top/view.rs": "a screen",
    "src/cmd/soft_smi.rs": "a table",
    "crates/abi": "NVIDIA's texts of errors, and a generator for the build",
    "crates/device/src/objects/graph/dot.rs": "the file of cuGraphDebugDotPrint",
    "crates/gate": "errors of a lock, which nobody is told",
    "crates/image": "why an image is refused: the caller is told by a CUDA error",
    "crates/linkage": "for the build",
    "crates/profile/src/cards.rs": "names of cards",
    "crates/settings/src/variables.rs": "docs/environment.md is made of them",
    "crates/trace/src/format": "the lines of a trace",
    "crates/trace/src/symbols.rs": "names in a trace",
    "crates/trace/src/view": "the page that zerogpu trace view makes",
}
# Literals that are no texts.
NO_TEXT = re.compile(r"HTTP/1\.1 |application/|zerogpu status$|over its time$")

TOKEN = re.compile(
    r"//[^\n]*|/\*.*?\*/"
    r"|b?r(?P<hashes>#*)\"(?P<raw>.*?)\"(?P=hashes)"
    r"|[bc]?\"(?P<text>(?:\\.|[^\"\\])*)\""
    r"|b?'(?:\\(?:u\{\w+\}|x\w\w|.)|[^\\'])'"
    r"|(?P<word>\w+(?:!(?!=))?)|(?P<sign>\S)",
    re.DOTALL,
)
TEST_ONLY = ["#", "[", "cfg", "(", "test", ")", "]"]


def rust_files():
    """The product's Rust files."""
    for path in sorted(file for folder in RUST for root in ROOT.glob(folder) for file in root.glob("**/*.rs")):
        place = str(path.relative_to(ROOT))
        if not any(place == other or place.startswith(f"{other}/") for other in ELSEWHERE) and path.stem != "tests":
            if "tests" not in path.relative_to(ROOT).parts[1:]:
                yield path


def texts_of_rust():
    """The texts of the Rust files, each with where it stands."""
    for path in rust_files():
        source = path.read_text()
        for start, text, calls in literals(source):
            words = re.findall(r"[A-Za-z]{2,}", shape(text))
            told = TOLD & set(calls) and words and " " in shape(text)
            if not SILENT & set(calls) and not NO_TEXT.match(text) and (told or has_words(text)):
                yield shape(text), f"{path.relative_to(ROOT)}:{source.count(chr(10), 0, start) + 1}"


def texts_of_python():
    """The texts that the hook raises and warns of, and those of the wheel's entry."""
    for path in sorted(path for folder in PYTHON for path in (ROOT / folder).glob("*.py")):
        tree = ast.parse(path.read_text())
        # what stands alone, or is given to __doc__
        alone = [node for node in ast.walk(tree) if isinstance(node, (ast.Expr, ast.Assign))]
        documentation = {
            id(node.value) for node in alone if isinstance(node, ast.Expr) or "__doc__" in ast.unparse(node)
        }
        parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
        for node in ast.walk(tree):
            text = None if id(node) in documentation | parts else written(node)
            if text and has_words(text):
                yield shape(text), f"{path.relative_to(ROOT)}:{node.lineno}"


def written(node):
    """A literal of Python as one of Rust would be; what is not in it is a placeholder."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value.replace("{", "{{").replace("}", "}}")
    if isinstance(node, ast.JoinedStr):
        return "".join(written(part) or "{}" for part in node.values)
    return None


def literals(source):
    """The string literals of a Rust file outside tests: where each begins, its text, the calls around it."""
    tokens = [token for token in TOKEN.finditer(source) if token.lastgroup]
    calls, at = [], 0
    while at < len(tokens):
        token = tokens[at]
        if token[0] == "#":
            end = group_end(tokens, at + 1 + (tokens[at + 1][0] == "!"))
            attribute = [word[0] for word in tokens[at:end]]
            if attribute == TEST_ONLY:
                end = item_end(tokens, end)
            elif attribute[2:3] == ["error"]:
                yield from ((word.start(), unescaped(word), ["Err"]) for word in tokens[at:end] if is_text(word))
            at = end
            continue
        if is_text(token):
            yield token.start(), unescaped(token), list(calls)
        elif token["sign"] and token["sign"] in "([{":
            calls.append(tokens[at - 1]["word"] or "")
        elif token["sign"] and token["sign"] in ")]}":
            calls.pop()
        at += 1


def is_text(token):
    return token["text"] is not None or token["raw"] is not None


def group_end(tokens, at):
    """Behind the brackets that begin at `at`."""
    depth = 0
    while True:
        sign = tokens[at]["sign"] or " "
        depth += (sign in "([{") - (sign in ")]}")
        at += 1
        if depth == 0:
            return at


def item_end(tokens, at):
    """Behind the item that begins at `at`, whose attributes may go on."""
    while tokens[at][0] not in (";", "{"):
        at = group_end(tokens, at) if tokens[at][0] in ("(", "[") else at + 1
    return group_end(tokens, at)


def unescaped(token):
    """A literal as it reads."""
    if token["raw"] is not None:
        return token["raw"]
    text = re.sub(r"\\\n\s*", "", token["text"])
    return re.sub(r"\\(.)", lambda escape: {"n": "\n", "t": "\t", "r": "\r", "0": "\0"}.get(escape[1], escape[1]), text)


def shape(text):
    """A text without who says it, each placeholder as `<>`."""
    text = re.sub(r"\{\{|\}\}|\{[^{}]*\}", lambda found: {"{{": "{", "}}": "}"}.get(found[0], "<>"), text)
    return re.sub(r"^(?:zerogpu|softcuda): ", "", text.replace("`", "'").strip("\0 \n"))


def has_words(text):
    """Whether somebody could read this: two words follow one another. What begins as a continuation belongs elsewhere."""
    return bool(re.search(r"[A-Za-z]{2,}[,;:)']* \(?[A-Za-z']{2,}", shape(text))) and text[:1] not in " ,;:()"
