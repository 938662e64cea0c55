import readme


def test_the_readmes_tables_are_the_results():
    text = readme.README.read_text()
    assert readme.rendered(text) == text
    assert all(f"<!-- {name} -->" in text for name in readme.BLOCKS)
