import unicodedata

from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from autoresearch.records.escape import markdown, one_line, quoted_block

# the characters that escapes, tables and pages are made of, far more often than chance would offer them
HARD_TEXT = st.text(
    st.one_of(st.sampled_from("\x1b[]m0;\x07\x9b\t\n\r\u2028\u202e\u200b`*_<>#|~&\\!()-"), st.characters())
)


def test_ansi_colours_and_window_titles_are_gone_and_the_words_stay():
    assert one_line("\x1b[1;31mred\x1b[0m and \x1b]0;owned\x07plain \x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\") == (
        "red and plain link"
    )


def test_tabs_newlines_and_line_separators_become_single_spaces():
    assert one_line(" a\tb\r\nc\u2028d\x0be\x85f  ") == "a b c d e f"


def test_bidi_zero_width_and_surrogate_characters_are_dropped():
    assert one_line("a\u202eb\u200bc\ud800d\x00e\ufefff") == "abcdef"


def test_words_of_any_language_survive():
    assert one_line("größere Breite 64 → 96, 幅を広げる, ширина") == "größere Breite 64 → 96, 幅を広げる, ширина"


def test_a_long_text_is_cut_at_the_limit_with_an_ellipsis():
    assert one_line("x" * 201) == "x" * 199 + "…"
    assert one_line("x" * 200) == "x" * 200


@given(HARD_TEXT, st.integers(1, 60))
def test_one_line_is_always_one_bounded_encodable_line_without_controls(text, limit):
    line = one_line(text, limit)
    assert len(line) <= limit
    assert len(line.splitlines()) <= 1
    assert not [char for char in line if unicodedata.category(char) in ("Cc", "Cf", "Cs")]
    assert line.encode().decode() == line


def test_markdown_escapes_every_character_that_acts():
    assert markdown("a*b_c`d<e>|#[f](g)&~{h}\\") == r"a\*b\_c\`d\<e\>\|\#\[f\](g)\&\~\{h\}" + "\\\\"


@given(HARD_TEXT)
def test_escaped_text_in_a_heading_renders_as_text_and_nothing_else(text):
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(f"## t #1: {markdown(text)}\n")
    assert [token.type for token in tokens] == ["heading_open", "inline", "heading_close"]
    assert {child.type for child in tokens[1].children} <= {"text", "text_special"}


@given(HARD_TEXT)
def test_nothing_inside_a_quoted_block_can_close_it(text):
    page = f"before\n\n{quoted_block('x' + text)}\n\nafter\n"
    kinds = [token.type for token in MarkdownIt().parse(page) if token.level == 0 and not token.type.endswith("_close")]
    assert kinds == ["paragraph_open", "code_block", "paragraph_open"]
