"""Training text for the test model: doc comments of the Go standard library, as raw text and as questions and answers."""

import hashlib
import pathlib
import re

# A comment block directly above an exported function, method, type or the package clause.
DOCUMENTED = re.compile(r"((?:^//.*\n)+)(^(?:func (?:\([^)]*\) )?[A-Z]|type [A-Z]).*)$", re.MULTILINE)
FUNCTION = re.compile(r"func ([A-Z]\w*)\(")
PACKAGE = re.compile(r"^package (\w+)", re.MULTILINE)

SKIPPED_PARTS = {"testdata", "vendor"}
SKIPPED_ROOTS = {"simd"}  # a megabyte of nearly identical generated comments
MAX_COMMENT = 1200  # characters; longer ones are mostly tables and grammars

IM_START, IM_END, END_OF_TEXT = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
SPECIAL = [END_OF_TEXT, IM_START, IM_END]


def declarations(text: str):
    """Yields (comment, declaration line) of a Go file; the opening brace is cut off."""
    for match in DOCUMENTED.finditer(text):
        comment, line = match[1], match[2]
        if "Copyright" in comment or "\n//go:" in "\n" + comment or len(comment) > MAX_COMMENT:
            continue
        yield comment, line.removesuffix("{").rstrip()


def first_paragraph(comment: str) -> str:
    lines = [line.removeprefix("//").strip() for line in comment.splitlines()]
    return " ".join("\n".join(lines).strip().split("\n\n")[0].split())


def dialogue(question: str, answer: str) -> str:
    return f"{IM_START}user\n{question}{IM_END}\n{IM_START}assistant\n{answer}{IM_END}\n"


def read(goroot: str):
    """Returns (training documents, held-out documents). A source file belongs wholly to one of the two."""
    root = pathlib.Path(goroot, "src")
    train, held_out = [], []
    for path in sorted(root.rglob("*.go")):
        name = path.relative_to(root)
        if path.name.endswith("_test.go") or SKIPPED_PARTS & set(name.parts) or name.parts[0] in SKIPPED_ROOTS:
            continue
        text = path.read_text(encoding="utf-8", errors="ignore")
        found = list(declarations(text))
        package = PACKAGE.search(text)
        if not found or not package:
            continue
        document = f"package {package[1]}\n\n" + "\n\n".join(comment + line for comment, line in found) + "\n"
        if hashlib.sha256(str(name).encode()).digest()[0] < 8:
            held_out.append(document)
            continue
        train.append(document)
        for comment, line in found:
            if function := FUNCTION.match(line):
                train.append(dialogue(f"What does {package[1]}.{function[1]} do?", first_paragraph(comment)))
    return train, held_out
