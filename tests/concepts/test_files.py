import json
import re

import pytest

from engram_interp.concepts.files import read_examples, read_labels


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
    with pytest.raises(ValueError, match=rf"a\.jsonl, line 2 .*{re.escape(repr(json.loads(line)))}"):
        read_examples(path)


def test_what_cannot_be_read_is_refused(tmp_path):
    bad, empty, other = tmp_path / "a.jsonl", tmp_path / "b.txt", tmp_path / "c.csv"
    bad.write_text('"fine"\n{"text": \n')
    empty.write_text("\n\n")
    other.write_text("x")
    with pytest.raises(ValueError, match=r"a\.jsonl, line 2 .*JSON"):
        read_examples(bad)
    with pytest.raises(ValueError, match=r"b\.txt .*none"):
        read_examples(empty)
    with pytest.raises(ValueError, match=r"c\.csv .*\.jsonl"):
        read_examples(other)
    with pytest.raises(FileNotFoundError, match=r"no file .*none\.txt"):
        read_examples(tmp_path / "none.txt")


def test_a_json_list_is_of_examples_however_it_is_set(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('["one text", "another"]')
    assert read_examples(path) == ["one text", "another"]
    path.write_text('[\n  ["q", "a"],\n  {"question": "q", "answer": "b"},\n  "text"\n]\n')
    assert read_examples(path) == [("q", "a"), ("q", "b"), "text"]
    path.write_text('{"prompt": "q", "answer": "a"}')
    assert read_examples(path) == [("q", "a")]
    path.write_text('"one"\n["q", "a"]\n')
    assert read_examples(path) == ["one", ("q", "a")]
    path.write_text('["fine", 3]')
    with pytest.raises(ValueError, match=r"a\.json, \[1\]"):
        read_examples(path)


def test_suffixes_are_read_in_any_case(tmp_path):
    for name, content in (("A.TXT", "one"), ("b.JsonL", '"one"'), ("c.JSON", '["one"]')):
        (tmp_path / name).write_text(content)
        assert read_examples(tmp_path / name) == ["one"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_encodings_that_say_what_they_are_are_read(tmp_path, encoding):
    (tmp_path / "a.txt").write_bytes("Zoë\nŁódź".encode(encoding))
    assert read_examples(tmp_path / "a.txt") == ["Zoë", "Łódź"]


def test_another_encoding_is_named_with_its_file_and_line(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"fine\nZo\xeb\n")
    with pytest.raises(ValueError, match=r"a\.txt, line 2 .*UTF-8.*0xeb"):
        read_examples(tmp_path / "a.txt")


@pytest.mark.parametrize("line", ['" "', '["", "a"]', '{"prompt": "q", "answer": " "}', '{"text": ""}'])
def test_a_blank_example_is_reported_by_its_line(tmp_path, line):
    path = tmp_path / "a.jsonl"
    path.write_text(f'"fine"\n\n{line}\n')
    with pytest.raises(ValueError, match=r"a\.jsonl, line 3 .*blank"):
        read_examples(path)


def test_a_list_that_is_no_json_is_reported_by_the_line_of_the_mistake(tmp_path):
    (tmp_path / "a.json").write_text('[\n"a",\n"b"\n"c"]')
    with pytest.raises(ValueError, match=r"a\.json, line 4 .*JSON"):
        read_examples(tmp_path / "a.json")


def test_utf16_without_a_mark_and_half_characters_are_refused_by_their_line(tmp_path):
    (tmp_path / "a.txt").write_bytes("x\ny".encode("utf-16-le"))
    with pytest.raises(ValueError, match=r"a\.txt, line 1 .*zero byte"):
        read_examples(tmp_path / "a.txt")
    (tmp_path / "a.jsonl").write_text('"fine"\n"\\ud800"\n')
    with pytest.raises(ValueError, match=r"a\.jsonl, line 2 .*surrogate"):
        read_examples(tmp_path / "a.jsonl")


def test_a_mark_in_the_middle_is_no_example(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\n\xef\xbb\xbf\n\xef\xbb\xbftwo")
    assert read_examples(tmp_path / "a.txt") == ["one", "two"]


def test_an_object_may_say_which_of_its_positions_count(tmp_path):
    path = tmp_path / "examples.jsonl"
    path.write_text(
        '{"prompt": "Where?", "answer": "Oslo", "positions": "answer", "eos": false}\n'
        '{"question": "Where?", "answer": "Lima"}\n'
    )
    said, plain = read_examples(path)
    assert said == ("Where?", "Oslo")
    assert (said.positions, said.eos) == ("answer", False)
    assert not hasattr(plain, "positions")
    path.write_text('{"prompt": "Where?", "answer": "Oslo", "positions": "middle"}\n')
    with pytest.raises(ValueError, match="line 1.*'middle'"):
        read_examples(path)


def test_labels_are_those_of_a_field(tmp_path):
    path = tmp_path / "a.jsonl"
    values = [
        {"text": "a", "author": "Ann"},
        {"text": "b", "author": 7},
        {"text": "c", "author": None},
        ["q", "a"],
        "d",
    ]
    path.write_text("\n".join(json.dumps(value) for value in values))
    assert read_labels(path, "author") == ["Ann", 7, None, None, None]
    assert len(read_labels(path, "author")) == len(read_examples(path))


def test_text_has_no_labels(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one\n\nanother\n")
    assert read_labels(path, "author") == [None, None]


@pytest.mark.parametrize("label", [["Ann"], {"name": "Ann"}, 1.5, True])
def test_what_is_no_label_is_refused(tmp_path, label):
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"text": "a", "author": "Ann"}, {"text": "b", "author": label}]))
    with pytest.raises(ValueError, match=rf"\[1\]: author must .*; got {re.escape(repr(label))}"):
        read_labels(path, "author")
