import csv
import io

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ldm.core.errors import UserError
from ldm.data.tables.metadata import read_metadata


@pytest.fixture
def read(tmp_path):
    """Writes a table and reads it: (name, *other cells) of each row."""

    def reading(text: str | bytes, name: str = "metadata.csv", column: str | None = None):
        data = text if isinstance(text, bytes) else text.encode()
        (tmp_path / name).write_bytes(data)
        names, rows = read_metadata(tmp_path / name, column)
        return [(n, *row.values()) for n, row in zip(names, rows.values, strict=True)]

    return reading


ROWS = [
    ("a.jpg", "a rose, red"),
    ("b c.jpg", 'the "queen"'),
    ("d.jpg", ""),
    ("e.jpg", "two\nlines"),
]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_any_usual_delimiter_line_end_and_mark_is_read(read, delimiter, end, mark):
    text = io.StringIO()
    options = {"delimiter": delimiter, "lineterminator": end, "quoting": csv.QUOTE_ALL}
    csv.writer(text, **options).writerows([("file_name", "text"), *ROWS])
    assert read(mark + text.getvalue()) == ROWS
    assert read((mark + text.getvalue()).encode("utf-16-le"), "x.tsv") == ROWS


def test_the_delimiter_is_that_of_the_header_and_not_of_the_captions(read):
    assert read("file_name,text\na.jpg,one; two; three\n") == [("a.jpg", "one; two; three")]
    assert read("file_name;text\na.jpg;one, two, three\n") == [("a.jpg", "one, two, three")]
    assert read("text\tfile_name\none, two\ta.jpg\n") == [("a.jpg", "one, two")]
    assert read("file_name\na.jpg\n") == [("a.jpg",)]
    assert read("where;what, when\na.jpg;x\n", column="where") == [("a.jpg", "x")]


def test_what_a_spreadsheet_says_of_its_delimiter_is_read(read):
    assert read("sep=;\r\nfile_name;text\r\na.jpg;x, y\r\n") == [("a.jpg", "x, y")]


def test_spaces_after_commas_and_empty_rows_do_no_harm(read):
    text = '\n file_name , text \n\na.jpg, "a rose, red"\n,,\n  \nb.jpg,  plain\n\n'
    assert read(text) == [("a.jpg", "a rose, red"), ("b.jpg", "plain")]


def test_long_cells_are_read(read):
    caption = "a rose " * 30_000
    assert read(f"file_name,text\na.jpg,{caption}x\n") == [("a.jpg", f"{caption}x")]
    assert csv.field_size_limit() < len(caption)  # and other users of the module see no difference


def test_commas_without_quotes_are_read_whole_where_the_rest_is_the_text(tmp_path, read):
    text = "file_name,text\na.jpg,a rose, dew on it,  close\nb.jpg,plain\n"
    assert read(text) == [("a.jpg", "a rose, dew on it,  close"), ("b.jpg", "plain")]
    (note,) = read_metadata(tmp_path / "metadata.csv", None)[1].notes
    assert note.startswith("1 of 2 rows of ") and "comma without quotes" in note
    assert read("text,file_name\na rose, red,a.jpg\n") == [("a.jpg", "a rose, red")]


@pytest.mark.parametrize(
    "row",
    [
        "a.jpg,1,a rose, red",  # the class may be the one with a comma
        'a.jpg,"a rose", red',
    ],
)
def test_a_row_of_too_many_cells_is_refused_with_its_line(read, row):
    header = "file_name,label,text" if row.count(",") == 3 else "file_name,text"
    with pytest.raises(UserError, match=r"metadata\.csv, line 3(:| has \d cells and the header)"):
        read(f"{header}\n\n{row}\n")
    with pytest.raises(UserError, match="line 2 has 3 cells and the header 2: put quotes"):
        read("file_name,label\na.jpg,rose, red\n")


def test_empty_cells_at_the_end_of_rows_are_dropped(read):
    assert read("file_name,text\na.jpg,a rose,,\n") == [("a.jpg", "a rose")]


@pytest.mark.parametrize("rest", ["", 'r5.jpg,"x, y"\n', 'r5.jpg,5" wide\n', 'r5.jpg,"\n'])
def test_a_cut_quote_is_refused_with_its_line_and_swallows_no_row(read, rest):
    text = f'file_name,text\nr1.jpg,one\nr2.jpg,"two\nr3.jpg,three\nr4.jpg,four\n{rest}'
    with pytest.raises(UserError, match=r"metadata\.csv, line 3: a quote opens in this row"):
        read(text)


def test_a_carriage_return_within_a_row_does_not_end_it_in_silence(read):
    with pytest.raises(UserError, match="line 2 breaks in another way than the lines"):
        read("file_name,text\na.jpg,a rose\rin a vase\n")


def test_captions_of_several_lines_are_read(read):
    assert read('file_name,text\na.jpg,"a rose\r\nred, wet"\nb.jpg,x\n') == [
        ("a.jpg", "a rose\r\nred, wet"),
        ("b.jpg", "x"),
    ]


def test_quotes_within_a_cell_are_text(read):
    assert read('file_name,text\na.jpg,a 5" rose\n') == [("a.jpg", 'a 5" rose')]
    assert read('file_name,text\na.jpg,a "big" rose, red\n') == [("a.jpg", 'a "big" rose, red')]


@pytest.mark.parametrize("delimiter", [",", "\t", "|"])
def test_a_cell_that_begins_with_a_quoted_word_is_text(read, delimiter):
    text = 'file_name,label,text\na.jpg,"x","big" rose and "small"er one\nb.jpg,y,"a ""b"""\n'
    rows = [("a.jpg", "x", '"big" rose and "small"er one'), ("b.jpg", "y", 'a "b"')]
    assert read(text.replace(",", delimiter)) == rows


@pytest.mark.parametrize("cells", ['"a "big" rose",x', '"one, two" x'])
def test_quotes_of_which_it_is_not_clear_what_they_close_are_refused(read, cells):
    with pytest.raises(UserError, match="line 2: a quote opens in this row and is not closed"):
        read(f"file_name,label,text\na.jpg,{cells}\n")


def test_escaped_quotes_and_delimiters_are_read(read):
    assert read('file_name,text\na.jpg,"a \\"red\\" rose"\n') == [("a.jpg", 'a "red" rose')]
    assert read("file_name,text\na.jpg,a rose\\, red\n") == [("a.jpg", "a rose, red")]


def test_a_header_that_is_missing_or_says_one_name_twice_is_refused(read):
    with pytest.raises(UserError, match=r"line 1 has 'a\.jpg' where the names of the columns"):
        read("a.jpg,a rose\nb.jpg,a rose\n")
    with pytest.raises(UserError, match=r"line 2: two columns are called 'text'"):
        read("\nfile_name,text,text\na.jpg,x,y\n")
    assert read(",file_name,,text\n0,a.jpg,,x\n") == [("a.jpg", "x")]  # an index without a name


def test_flickr_tables_are_read(read):
    tokens = "1.jpg#0\tA child, in pink\n1.jpg#1\tA girl .\n"
    assert read(tokens, "Flickr8k.token.txt") == [
        ("1.jpg", "A child, in pink"),
        ("1.jpg", "A girl ."),
    ]
    assert read("image,caption\n1.jpg,A child , in pink .\n", "captions.txt") == [
        ("1.jpg", "A child , in pink .")
    ]
    bars = "image_name| comment_number| comment\n1.jpg| 0| Two men , one dog .\n"
    assert read(bars, "results.csv") == [("1.jpg", "0", "Two men , one dog .")]


def test_no_rows_are_no_rows(read):
    assert read("") == read("\n\n") == read("file_name,text\n") == []


cell = st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=12).map(str.lstrip)
dialect = st.fixed_dictionaries(
    {
        "delimiter": st.sampled_from(",;\t|"),
        "lineterminator": st.sampled_from(["\n", "\r\n"]),
        "quoting": st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    }
)


@settings(max_examples=60)
@given(st.lists(st.tuples(cell, cell), max_size=5), dialect)
@example([('"', "\\"), ("\r", '\\"'), ("", "a\n,\nb ")], {"quoting": csv.QUOTE_ALL})
def test_what_a_program_writes_is_read_back_exactly(tmp_path_factory, pairs, options):
    path = tmp_path_factory.mktemp("csv") / "metadata.csv"
    text = io.StringIO()
    writer = csv.writer(text, **options)
    writer.writerow(["file_name", "label", "text"])
    writer.writerows((f"{i}.jpg", *pair) for i, pair in enumerate(pairs))
    path.write_bytes(text.getvalue().encode())
    names, rows = read_metadata(path, None)
    assert names == [f"{i}.jpg" for i in range(len(pairs))]
    assert [tuple(row.values()) for row in rows.values] == pairs


@example(b"\n\r\x00", "csv")
@settings(max_examples=100)
@given(
    st.binary(max_size=60) | st.text('a.jpg,;"\\\n\r\t|# [{:}]0', max_size=60).map(str.encode),
    st.sampled_from(["csv", "tsv", "txt", "jsonl", "json"]),
)
def test_any_bytes_are_rows_or_a_sentence(tmp_path_factory, data, suffix):
    path = tmp_path_factory.mktemp("any") / f"metadata.{suffix}"
    for text in (data, b"file_name,text\n" + data):
        path.write_bytes(text)
        try:
            names, rows = read_metadata(path, None)
        except UserError as error:
            assert str(path) in str(error)
        else:
            assert len(names) == len(rows.values) == len(rows.lines)


def test_rows_with_fewer_cells_than_the_header_are_told(tmp_path, read):
    assert read("file_name|text\na.jpg|x\nb.jpg   4 a dog\n") == [
        ("a.jpg", "x"),
        ("b.jpg   4 a dog",),
    ]
    (note,) = read_metadata(tmp_path / "metadata.csv", None)[1].notes
    assert note.startswith("1 of 2 rows of ") and note.endswith("the first in line 3")
