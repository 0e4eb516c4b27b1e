"""The language of short texts: naive Bayes over trigrams of letters."""

import json
import pathlib

import numpy

_MODEL = json.loads(pathlib.Path(__file__).with_name("weights.json").read_text(encoding="utf-8"))
_LANGUAGES = _MODEL.get("languages", [])
_TRIGRAMS = {gram: numpy.array(row) for gram, row in _MODEL.get("trigrams", {}).items()}


def trigrams(text):
    """Every three letters in a row, words apart by one space."""
    letters = "".join(letter if letter.isalpha() else " " for letter in text.lower())
    padded = f" {' '.join(letters.split())} "
    return [padded[at : at + 3] for at in range(len(padded) - 2)]


def predict(inputs, flags):
    """One language and one confidence for each text; `unknown` below the flag's confidence."""
    found, confidence = [], []
    for text in inputs["text"]:
        scores = sum((_TRIGRAMS[gram] for gram in trigrams(text) if gram in _TRIGRAMS), numpy.zeros(len(_LANGUAGES)))
        shares = numpy.exp(scores - scores.max())
        shares /= shares.sum()
        best = int(shares.argmax())
        found.append(_LANGUAGES[best] if shares[best] >= flags["least-confidence"] else "unknown")
        confidence.append(shares[best])
    return {"language": found, "confidence": numpy.array(confidence, dtype=numpy.float32)}
