import base64
import html
import re
import struct
from dataclasses import replace

from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from convlib.reports.export import Link, Page, export_page, find_title, frame_tables, quote_css, settle_direction

PAGE = Page("Shop <weekly>", "device: mobile", "1 to 10 March 2024", "02_funnel.ipynb", ("6 rows read.",))
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", 1036, 576) + b"rest").decode()


def show(**data: str) -> NotebookNode:
    content = {name.replace("_", "/", 1): value for name, value in data.items()}
    cell: NotebookNode = new_code_cell("hidden_code = 1", outputs=[new_output("execute_result", data=content)])
    return cell


def export(*cells: NotebookNode, page: Page = PAGE) -> str:
    return export_page(new_notebook(cells=[new_markdown_cell("# Where they leave"), *cells]), page)


def read_images(page: str) -> list[dict[str, str]]:
    images = re.findall(r"<img ([^>]*)>", page)
    return [{name: html.unescape(value) for name, value in re.findall(r'(\w+)="([^"]*)"', image)} for image in images]


def main_of(page: str) -> str:
    return page.partition("<main>")[2].partition("</main>")[0]


def test_export_page_hides_code_prompts_and_warnings() -> None:
    noisy = new_code_cell("hidden_code = 1", execution_count=7)
    noisy.outputs = [new_output("stream", name="stderr", text="a warning"), new_output("stream", text="units: 4 < 5")]
    shown = main_of(export(noisy))
    assert "hidden_code" not in shown
    assert "a warning" not in shown
    assert "[7]" not in shown
    assert '<pre class="printed">units: 4 &lt; 5</pre>' in shown


def test_export_page_is_one_file_that_may_load_nothing() -> None:
    page = export(show(image_png=PNG))
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in page
    assert "<script" not in page
    assert not re.findall(r"https?://", page)
    assert page.startswith("<!DOCTYPE html>")
    assert '<html lang="en">' in page


def test_export_page_says_where_it_belongs() -> None:
    page = export(page=Page("Shop", "All units", "March", "b.ipynb", ("6 rows.",), Link("A & B", "a.html"), None))
    assert "<title>Where they leave · All units · Shop</title>" in page
    assert '<a href="../index.html">Shop</a>' in page
    assert re.search(r'<a [^>]*href="a.html"[^>]*><small>Previous</small>A &amp; B</a>', page)
    assert "Next" not in page
    assert "<p>6 rows.</p>" in page
    assert 'href="b.ipynb"' in page


def test_export_page_escapes_the_names_around_the_notebook() -> None:
    assert "Shop &lt;weekly&gt;" in export()


def test_export_page_puts_key_takeaways_into_a_card_of_their_own() -> None:
    shown = main_of(
        export(
            new_markdown_cell("## Key takeaways"),
            show(text_html="<ul><li>25% bought.</li></ul>"),
            new_markdown_cell("## 1. Next"),
        )
    )
    card = shown.partition('<section class="key">')[2].partition("</section>")[0]
    assert "25% bought." in card
    assert "1. Next" not in card


def test_export_page_moves_the_takeaways_up_to_the_title() -> None:
    data, takeaways = new_markdown_cell("## Data"), new_markdown_cell("## Key takeaways")
    banner = new_markdown_cell("## This report is incomplete", metadata={"tags": ["run-error"]})
    shown = main_of(export(banner, data, show(text_plain="6 rows"), takeaways, show(text_plain="25%")))
    order = [shown.index(text) for text in ("Where they leave", "incomplete", "Key takeaways", "25%", "Data", "6 rows")]
    assert order == sorted(order)


def test_export_page_closes_the_card_when_takeaways_end_the_notebook() -> None:
    shown = main_of(export(new_markdown_cell("## Key takeaways"), show(text_html="<p>x</p>")))
    assert shown.count("<section") == shown.count("</section>") == 1


def test_export_page_describes_a_figure_by_its_heading_and_takeaway() -> None:
    shown = export(
        new_markdown_cell("## 1. Who `buys`"),
        show(image_png=PNG),
        show(text_html="<ul><li>25% of 4 &lt;users&gt; bought.</li></ul>"),
    )
    (image,) = read_images(shown)
    assert image["alt"] == "Figure: 1. Who buys. 25% of 4 <users> bought"
    assert (image["width"], image["height"]) == ("1036", "576")


def test_export_page_keeps_the_alternative_text_and_size_that_a_figure_brings() -> None:
    cell = show(image_png=PNG)
    cell.outputs[0].metadata = NotebookNode({"image/png": {"alt": "A bar", "width": 518}})
    (image,) = read_images(export(cell))
    assert (image["alt"], image["width"], "height" in image) == ("A bar", "518", False)


def test_export_page_shows_other_figures_and_texts() -> None:
    shown = main_of(
        export(
            show(**{"image_svg+xml": "<svg/>"}),
            show(image_jpeg="QUJD"),
            show(text_markdown="**bold**"),
            show(text_plain="4 users"),
            show(text_plain="<Axes: >"),
        )
    )
    assert 'src="data:image/svg+xml;base64,PHN2Zy8+' in shown
    assert 'src="data:image/jpeg;base64,QUJD"' in shown
    assert "<strong>bold</strong>" in shown
    assert "4 users" in shown
    assert "Axes" not in shown


def test_export_page_shows_an_error_without_its_terminal_colours() -> None:
    cell = new_code_cell("1/0")
    cell.outputs = [new_output("error", ename="Oops", evalue="x", traceback=["\x1b[31m<b>line</b>\x1b[0m"])]
    shown = main_of(export(cell))
    assert '<details class="failure"><summary>Oops: where it stopped</summary>' in shown
    assert "&lt;b&gt;line&lt;/b&gt;" in shown


def test_export_page_uses_the_file_name_when_there_is_no_title() -> None:
    page = export_page(new_notebook(cells=[new_markdown_cell("no heading")]), PAGE)
    assert "<title>02_funnel.ipynb · device: mobile · Shop &lt;weekly&gt;</title>" in page


def test_export_page_takes_the_title_that_it_is_given() -> None:
    page = export(page=replace(PAGE, title="Experiments: A & B"))
    assert "<title>Experiments: A &amp; B · device: mobile" in page
    assert re.findall(r"<h1[^>]*>(.*?)</h1>", page) == ["Experiments: A &amp; B"]


def test_find_title_takes_the_first_top_heading() -> None:
    cells = [new_code_cell("# no"), new_markdown_cell("## no"), new_markdown_cell("text\n# Yes *it* is #")]
    assert find_title(new_notebook(cells=cells)) == "Yes it is"


def test_frame_tables_names_tables_by_their_caption_or_the_heading_above() -> None:
    table = "<table class='x'><tr><td>1</td></tr></table>"
    own = "<table><caption>A &amp; <b>B</b></caption></table>"
    assert frame_tables(f"{table}<h2 id='a'>One &amp; two</h2>{table}{table}{own}") == (
        framed("Table", table) + "<h2 id='a'>One &amp; two</h2>" + framed("One &amp; two", table)
        + framed("One &amp; two (2)", table)
        + f'<div class="scroll" role="region" tabindex="0" aria-label="A &amp; B">{own}</div>'
    )  # fmt: skip


def framed(label: str, table: str) -> str:
    start, rest = table.split(">", 1)
    caption = f'<caption class="unseen">{label}</caption>'
    return f'<div class="scroll" role="region" tabindex="0" aria-label="{label}">{start}>{caption}{rest}</div>'


def test_frame_tables_says_what_each_head_is_about() -> None:
    table = (
        "<table><thead><tr><th>A</th><th scope='colgroup'>B</th></tr></thead><tbody><tr><th id='r'>C</th></tr></tbody>"
    )
    heads = re.findall(r"<th\b[^>]*>", frame_tables(table + "</table>"))
    assert heads == ['<th scope="col">', "<th scope='colgroup'>", "<th scope=\"row\" id='r'>"]


def test_quote_css_lets_no_text_out_of_its_string() -> None:
    assert quote_css('Été "x"</style>\n') == '"Été \\22 x\\22 \\3c \\2f style\\3e \\a "'


def test_export_page_says_what_changed_after_the_key_takeaways() -> None:
    page = replace(PAGE, compared="1 to 10 February 2024", changes=("Up <3>.", "Second."))
    shown = main_of(export(new_markdown_cell("## Key takeaways"), new_markdown_cell("## 1. Next"), page=page))
    assert (
        '<section aria-labelledby="changes" class="changes"><h2 id="changes">Since the last report</h2>'
        "<p>Compared with 1 to 10 February 2024.</p><ul><li>Up &lt;3&gt;.</li><li>Second.</li></ul></section>"
    ) in shown
    assert shown.index("Key takeaways") < shown.index("Since the last report") < shown.index("1. Next")


def test_export_page_says_that_nothing_changed_only_where_it_was_compared() -> None:
    assert "<p>Nothing changed beyond chance.</p>" in export(page=replace(PAGE, compared="February"))
    assert "Since the last report" not in export()


def test_export_page_gives_an_analyst_the_code_closed() -> None:
    shown = main_of(export(show(text_plain="4"), page=replace(PAGE, code=True)))
    assert '<details class="code"><summary>Code</summary><pre><code>hidden_code = 1</code></pre></details>' in shown


def test_export_page_links_to_no_notebook_that_its_reader_does_not_get() -> None:
    page = export(page=replace(PAGE, notebook="", title="Funnel", index="index.html"))
    assert "notebook behind" not in page
    assert set(re.findall(r'href="([^"]*)"', page)) == {"index.html"}


def test_export_page_describes_a_figure_by_the_takeaways_that_its_result_leads() -> None:
    plots = [show(image_png=PNG), show(image_png=PNG)]
    for cell, source in zip(plots, ("funnel.plot_trend();", "groups.plot();"), strict=True):
        cell.source = source
    key = show(text_html="<ul><li>25% bought.</li></ul>")
    key.source = "funnel.takeaways + groups.takeaways"
    heading = new_markdown_cell("## 1. By week")
    images = read_images(export(new_markdown_cell("## Key takeaways"), key, heading, *plots))
    assert [image["alt"] for image in images] == ["Figure: 1. By week. 25% bought", "Figure: 1. By week"]


def test_settle_direction_drops_turning_marks_and_sets_names_from_right_to_left_apart() -> None:
    assert settle_direction("a\u202e1% \u05d0\u05d1 \u05d2: 4% <b>\u0627</b>") == (
        "a1% \u2068\u05d0\u05d1 \u05d2\u2069: 4% <b>\u2068\u0627\u2069</b>"
    )
