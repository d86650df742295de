from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from convlib.documents import read_document
from convlib.validation import word_errors


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid")

    size: int = Field(description="how large it is")
    from_: str = Field(default="", alias="from")


class Whole(BaseModel):
    model_config = ConfigDict(extra="forbid")

    parts: list[Part] = []
    named: dict[str, Part] = {}


def test_word_errors_gives_line_field_value_and_remedy(tmp_path: Path) -> None:
    path = tmp_path / "whole.yaml"
    path.write_text(
        "parts:\n  - size: 1.5\n    fro: x\n  - {}\nnamed:\n  left:\n    size: 1\n    form: x\nother: 1\n",
        encoding="utf-8",
    )
    document = read_document(path)
    with pytest.raises(ValidationError) as caught:
        Whole.model_validate(document.data)
    assert word_errors(caught.value, document, Whole) == [
        (2, f"{path}:2: parts[0].size is 1.5; Input should be a valid integer, got a number with a fractional part."),
        (3, f"{path}:3: parts[0] has an unknown field 'fro'; the fields are 'size', 'from'. Did you mean 'from'?"),
        (4, f"{path}:4: parts[1] has no `size`. Add `size:` how large it is."),
        (8, f"{path}:8: named.left has an unknown field 'form'; the fields are 'size', 'from'. Did you mean 'from'?"),
        (9, f"{path}:9: the file has an unknown field 'other'; the fields are 'parts', 'named'."),
    ]
