import pytest

from engram_interp.examples import read_examples


def test_text_is_a_string_a_line(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one line\n\n  another \n")
    assert read_examples(path) == ["one line", "another"]


def test_only_line_breaks_break_lines(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffone\x0cline\r\nan\u2028other\n".encode())
    assert read_examples(path) == ["one\x0cline", "an\u2028other"]


def test_json_lines_take_every_form(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(
        '"a string"\n["q", "a"]\n{"prompt": "q", "answer": "a"}\n\n'
        '{"question": "q", "answer": "a", "id": 3}\n{"text": "t"}\n'
    )
    assert read_examples(path) == ["a string", ("q", "a"), ("q", "a"), ("q", "a"), "t"]


@pytest.mark.parametrize("line", ['{"prompt": "q"}', "3", '["q", "a", "b"]', '["q", 3]', '{"text": null}'])
def test_another_form_is_refused_by_its_line(tmp_path, line):
    path = tmp_path / "a.jsonl"
    path.write_text(f'"fine"\n{line}\n')
    with pytest.raises(ValueError, match=r"a\.jsonl, line 2 is none of: a string, a \[prompt, answer\] list"):
        read_examples(path)


def test_what_cannot_be_read_is_refused(tmp_path):
    bad, empty, other = tmp_path / "a.jsonl", tmp_path / "b.txt", tmp_path / "c.csv"
    bad.write_text('"fine"\n{"text": \n')
    empty.write_text("\n\n")
    other.write_text("x")
    with pytest.raises(ValueError, match=r"a\.jsonl, line 2 is no JSON"):
        read_examples(bad)
    with pytest.raises(ValueError, match=r"b\.txt holds no example"):
        read_examples(empty)
    with pytest.raises(ValueError, match=r"c\.csv is no \.txt, \.jsonl or \.json file"):
        read_examples(other)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        read_examples(tmp_path / "none.txt")
