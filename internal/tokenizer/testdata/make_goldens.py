#!/usr/bin/env python3
"""Trains small tokenizers and writes goldens.json: what the tokenizers and sentencepiece libraries make of hard texts.

    pip install tokenizers sentencepiece && python3 make_goldens.py

A case is one of the tokenizers (bytelevel.json, spm.json, unigram.json) with some of its nodes replaced, or a SentencePiece
model (bpe.model, unigram.model).
"""
import base64
import io
import json
import pathlib
import random

import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
SPACE = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
LEAD = r"[^\r\n\p{L}\p{N}]?"
PATTERNS = {
    "llama3": CONTRACTION + "|" + LEAD + r"\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*" + SPACE,
    "qwen2": CONTRACTION + "|" + LEAD + r"\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*" + SPACE,
    "qwen35": CONTRACTION + "|" + LEAD + r"[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*" + SPACE,
    "o200k": LEAD + UPPER + "*" + LOWER + "+" + CONTRACTION + "?|" + LEAD + UPPER + "+" + LOWER + "*" + CONTRACTION
    + r"?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*" + SPACE,
    "tekken": LEAD + UPPER + "*" + LOWER + "+|" + LEAD + UPPER + "+" + LOWER + r"*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*" + SPACE,
}
TEXTS = [
    "", " ", "  ", "a", " a", "a ", "Hello, world!", "hello world  two   three    four", "It's we'll I'VE they'Re don't 'ſo 'sure x'd",
    "0 1 12 123 1234 12345 3.14159 1,000,000 ٣٤٥ ½ Ⅷ x2y", "line\nline\r\nline\n\n\nline \n  \n\t end\t\t", "\n", "\r\n", " \n ", "\n a", "   \n   b",
    "def f(x):\n    return x**2  # square\n\nclass A:\n\tpass\n", "for (int i = 0; i < n; ++i) { a[i] += b->c; }", "{\"key\": [1, 2, null], \"s\": \"\\n\"}",
    "https://example.org/a_b/c?d=e&f=%20#g", "!!!???... --- ___ *** ### ~~~ ``` \"\"\" '''", "日本語のテキスト、中文文本。한국어 텍스트", "ไทย हिन्दी বাংলা தமிழ் العربية עברית",
    "Привет, мир! Größe, naïve, Ærøskøbing, İstanbul, ŁÓDŹ, straße", "e\u0301a\u0308o\u0302 n\u0303 \u0301x \u1112\u1161\u11ab", "😀👍🏽👩‍👩‍👧‍👦🏳️‍🌈🇩🇪 ☕️ ♥", "\u00a0\u2003\u3000\u200b\ufeff\u00ad x\u0085y\u2028z",
    "camelCaseString HTTPServer iPhone XMLHttpRequest McDonald's USA's ǅungla ªº ʰx", "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", "<|im_start|> <|im_end|><|endoftext|>", "a<|im_end|>b <|im_end|> c",
    "<|im_start", "<tool>x</tool> <tool> a<tool>b", "a <left> b  <left>c", "a <right>  b<right>\n\nc", "word<single> <single> x<single>y (<single>)", "<s>text</s> <unk> </s>", "<0x41> <0x0A>", "▁a ▁▁b _c", "\x00\x01\x7f", "�",
    "a" + "\u0301" * 28 + "b", "\u200d\u200d x\u200cy \u2060", "\u202eabc\u202c (\u05d0\u05d1)", "①②Ⅳ ﬁ ﬂ ﷺ ½ ㌔ ｶﾞ ＡＢＣ", "x" * 70 + " " + "y" * 130, "12345678901234567890 1e-10 0x1F 1_000",
    "\\\\ \\n // /* */ <!-- --> <a href='x'>", "SELECT * FROM t WHERE a='b' -- c", "    \n        \n\t\t\tx\n", "naïve café résumé Ångström", "a\u00a0b\u202fc\u3000d", "…—–‘’“”«»„", "😀😀😀😀😀 😀 👨‍👩‍👧‍👦👨‍👩‍👧‍👦", "‮𝕳𝖊𝖑𝖑𝖔 𝟙𝟚𝟛 𐍈𐌰", "don't DON'T Don'T we'Ll 'S 'tis o'clock", "Ǆ ǅ ǆ ŉ ß ẞ İ ı ſ K Å",
    "你好，世界！今天天气怎么样？", "안녕하세요 세계 ㅎㅎ", "สวัสดีชาวโลก", "नमस्ते दुनिया क्षत्रिय", "مرحبا بالعالم ١٢٣", "שלום עולם", "Γειά σου Κόσμε ΣΑΣ", "Здравствуй, мир — ёж", "e.g. i.e. U.S.A. 3.5% $4.99 #tag @user a+b=c", "\n\n\n", " \n \n ", "\t", "a\tb\tc", "<unk><s></s>", "<|endoftext|><|im_start|>", "<<<|im_start|>>>", "▁▁▁ ▁", "_ __ ___", "\u2581a", "\x1b[31mred\x1b[0m", "\ud7ff\ue000\ufffd\uffff", "\U0010ffff",
    "the of and to in is it that was for on are with as his they at be this from", "internationalization and localization", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "x" * 3 + " " * 40 + "y",
]
POOL = ["abcde ABC éÉß", "0123456789٣Ⅷ½", "  \t\n\r\u00a0\u2003\u0085", "'s 't 'RE 'll 'D 'm 'Ve", "!?.,;:-_()[]{}<>/", "日本語한국어ไทย", "😀👩‍👧", "e\u0301a\u0308", "абвПРИעבरहिन", "<|im_start|> <|im_end|> <tool>"]


def texts():
    r = random.Random(1)
    out = list(TEXTS)
    for _ in range(170):
        parts = []
        for _ in range(r.randint(4, 14)):
            pool = r.choice(POOL)
            parts.append(r.choice(pool.split(" ")) if " " in pool and r.random() < 0.3 else "".join(r.choice(pool) for _ in range(r.randint(1, 3))))
        out.append("".join(parts))
    return out


def added(t, special):
    t.add_special_tokens([AddedToken(s, normalized=False) for s in special])
    t.add_tokens([
        AddedToken("<tool>", normalized=False), AddedToken("</tool>", normalized=False), AddedToken("<left>", lstrip=True, normalized=False),
        AddedToken("<right>", rstrip=True, normalized=False), AddedToken("<single>", single_word=True, normalized=False),
    ])


def byte_level(use_regex=False):
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def split(pattern, **more):
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False, **more}


def sequence(*nodes):
    return {"type": "Sequence", "pretokenizers": list(nodes)}


def train_byte_level():
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    t.train_from_iterator(texts(), trainers.BpeTrainer(vocab_size=560, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    added(t, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    return t


def train_spm():
    t = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    t.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    t.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    special = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)]
    t.train_from_iterator(texts()[:30], trainers.BpeTrainer(vocab_size=520, show_progress=False, special_tokens=special, limit_alphabet=90))
    j = json.loads(t.to_str())
    j["added_tokens"] = j["added_tokens"][:3]
    t = Tokenizer.from_str(json.dumps(j))
    added(t, [])
    t.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", t.token_to_id("<s>"))])
    return t


def train_unigram():
    t = Tokenizer(models.Unigram())
    t.pre_tokenizer = pre_tokenizers.Metaspace()
    t.decoder = decoders.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    t.train_from_iterator([s for s in texts()[:120] if "<|" not in s], trainers.UnigramTrainer(vocab_size=420, show_progress=False, special_tokens=special, unk_token="<unk>"))
    j = json.loads(t.to_str())
    t = Tokenizer.from_str(json.dumps(j))
    added(t, special)
    t.post_processor = processors.TemplateProcessing(single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", t.token_to_id("</s>"))])
    return t


RULES = [("ﬁ", "fi"), ("①", "1"), ("ＡＢ", "AB"), ("Ａ", "A"), ("½", "1/2"), ("e\u0301", "é"), ("\u00a0", " "), ("\u3000", " "), ("\t", " "), ("\n", " "), ("\r", " "), ("\u200b", ""), ("é", "e\u0301"), ("ß", "ss"), ("👍🏽", "👍")]


def train_sentencepiece(here, name, **options):
    rules = here / "rules.tsv"
    rules.write_text("".join(" ".join("%X" % ord(c) for c in a) + "\t" + " ".join("%X" % ord(c) for c in b) + "\n" for a, b in RULES), encoding="utf-8")
    out = io.BytesIO()
    lines = [t.replace("\n", " ").replace("\0", " ").replace("\r", " ") for t in texts()[:120]] * 3
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(lines), model_writer=out, minloglevel=2, num_threads=1,
        **({"normalization_rule_tsv": str(rules)} if options.pop("rules") else {"normalization_rule_name": "identity"}), **options)
    rules.unlink()
    (here / name).write_bytes(out.getvalue())


def cases(charsmap):
    yield "gpt2", "bytelevel", {}
    precompiled = {"type": "Precompiled", "precompiled_charsmap": charsmap}
    strip = {"type": "Strip", "strip_left": False, "strip_right": True}
    collapse = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"}
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    yield "unigram", "unigram", {}
    yield "unigram, character map", "unigram", {"normalizer": {"type": "Sequence", "normalizers": [precompiled, strip, collapse]}}
    yield "unigram, NFKC, lower case", "unigram", {"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Lowercase"}]}}
    yield "unigram, words", "unigram", {"pre_tokenizer": sequence({"type": "WhitespaceSplit"}, metaspace)}
    yield "unigram, one word", "unigram", {"pre_tokenizer": {**metaspace, "split": False}}
    yield "unigram, replaced", "unigram", {"normalizer": {"type": "Replace", "pattern": {"String": "l"}, "content": "L"}, "pre_tokenizer": {**metaspace, "prepend_scheme": "first"}}
    yield "smollm", "bytelevel", {"pre_tokenizer": sequence({"type": "Digits", "individual_digits": True}, byte_level(True))}
    yield "digit runs", "bytelevel", {"pre_tokenizer": sequence({"type": "Digits", "individual_digits": False}, byte_level(True))}
    for name, pattern in PATTERNS.items():
        yield name, "bytelevel", {"pre_tokenizer": sequence(split(pattern), byte_level())}
    yield "llama3, ignore_merges", "bytelevel", {"pre_tokenizer": sequence(split(PATTERNS["llama3"]), byte_level()), "model": {"ignore_merges": True}}
    yield "removed", "bytelevel", {"pre_tokenizer": sequence(split(PATTERNS["qwen2"], behavior="Removed", invert=True), byte_level())}
    yield "three digits", "bytelevel", {"pre_tokenizer": sequence(split(r"\p{N}{1,3}"), byte_level(True))}
    yield "prefix space", "bytelevel", {"pre_tokenizer": {**byte_level(True), "add_prefix_space": True}}
    yield "qwen2, NFC", "bytelevel", {"normalizer": {"type": "NFC"}, "pre_tokenizer": sequence(split(PATTERNS["qwen2"]), byte_level())}
    yield "llama2", "spm", {}
    yield "gemma", "spm", {
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "pre_tokenizer": {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False},
    }
    for scheme in ("first", "always", "never"):
        for cut in (False, True):
            yield f"metaspace {scheme} {cut}", "spm", {
                "normalizer": None, "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": cut}}
    yield "unknown", "spm", {"model": {"byte_fallback": False}}
    yield "unknown, not fused", "spm", {"model": {"byte_fallback": False, "fuse_unk": False}}


def main():
    here = pathlib.Path(__file__).parent
    base = {}
    for name, t in (("bytelevel", train_byte_level()), ("spm", train_spm()), ("unigram", train_unigram())):
        base[name] = json.loads(t.to_str())
        (here / f"{name}.json").write_text(json.dumps(base[name], ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")
    out = {"texts": texts(), "cases": []}
    train_sentencepiece(here, "bpe.model", model_type="bpe", vocab_size=700, character_coverage=0.98, byte_fallback=True, rules=False, remove_extra_whitespaces=False, hard_vocab_limit=False)
    train_sentencepiece(here, "unigram.model", model_type="unigram", vocab_size=600, character_coverage=0.98, rules=True, hard_vocab_limit=False, pad_id=3)
    for name in ("bpe.model", "unigram.model"):
        proto = sentencepiece_model_pb2.ModelProto()
        proto.ParseFromString((here / name).read_bytes())
        if name == "bpe.model":
            p = sentencepiece.SentencePieceProcessor(model_file=str(here / name))
            ids = [p.encode(s) for s in out["texts"]]
        else:  # as transformers converts it
            charsmap = base64.b64encode(proto.normalizer_spec.precompiled_charsmap).decode()
            t = Tokenizer(models.Unigram([(p.piece, p.score) for p in proto.pieces], proto.trainer_spec.unk_id, False))
            t.normalizer = normalizers.Sequence([
                normalizers.Precompiled(proto.normalizer_spec.precompiled_charsmap), normalizers.Strip(left=False, right=True), normalizers.Replace(Regex(" {2,}"), "▁")])
            t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
            t.add_special_tokens([AddedToken(p.piece, normalized=False) for p in proto.pieces if p.type in (2, 3)])
            ids = [t.encode(s, add_special_tokens=False).ids for s in out["texts"]]
        out["cases"].append({"name": name, "tokenizer": name, "patch": {}, "ids": ids})
    for name, tokenizer, patch in cases(charsmap):
        j = {**base[tokenizer], **{k: v for k, v in patch.items() if k != "model"}}
        j["model"] = {**j["model"], **patch.get("model", {})}
        t = Tokenizer.from_str(json.dumps(j))
        ids = [t.encode(s, add_special_tokens=False).ids for s in out["texts"]]
        out["cases"].append({"name": name, "tokenizer": tokenizer, "patch": patch, "ids": ids})
    text = json.dumps(out, ensure_ascii=True, separators=(",", ":")).replace('{"name"', '\n{"name"')
    (here / "goldens.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
