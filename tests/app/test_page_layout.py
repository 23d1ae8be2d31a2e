"""The page on a phone and on a desk, by keyboard, and read aloud."""

import pytest

from helpers.page_steps import TABS, more, open_tab

pytestmark = pytest.mark.slow
#: Roles that the browser's tree must not show without a name.
_CONTROLS = ("button", "textbox", "spinbutton", "combobox", "slider", "checkbox", "tab")
#: What has no name though it is seen; a picture that is hidden from screen readers needs none.
_UNNAMED = """() => {
  const wrong = [];
  const name = e => (e.getAttribute('aria-label') || e.textContent || e.title || '').trim()
    || (e.getAttribute('aria-labelledby') || '').split(' ').map(
         id => document.getElementById(id)?.textContent || '').join('').trim()
    || [...(e.labels || [])].map(label => label.textContent).join('').trim();
  for (const e of document.querySelectorAll(
    'input, textarea, select, button, a[href], [role=button], [role=listbox], iframe')) {
    if (!e.checkVisibility() || e.type === 'hidden' || e.closest('[aria-hidden=true]')) continue;
    if (!name(e)) wrong.push(e.outerHTML.slice(0, 200));
  }
  for (const e of document.querySelectorAll('img, [role=img]'))
    if (e.checkVisibility() && !e.closest('[aria-hidden=true]')
        && !e.getAttribute('alt') && !e.getAttribute('aria-label'))
      wrong.push(e.outerHTML.slice(0, 200));
  return wrong;
}"""


@pytest.mark.parametrize("size", [(390, 844), (1280, 800)], ids=["phone", "desk"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_tab_is_wider_than_the_window(browser, served, size, scheme):
    width, height = size
    view = {"width": width, "height": height}
    context = browser.new_context(viewport=view, color_scheme=scheme)
    page = context.new_page()
    page.goto(served[0])
    page.get_by_role("button", name="Run", exact=True).wait_for()
    for name in TABS:
        open_tab(page, name)
        if name not in ("Generate", "Runs"):
            more(page)
        page.wait_for_timeout(300)
        wide, room = page.evaluate(
            "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
        )
        assert wide <= room, f"{name} is {wide} pixels wide"
    context.close()


def test_everything_has_a_name_for_a_screen_reader(page):
    for name in TABS:
        open_tab(page, name)
        if name not in ("Generate", "Runs"):
            more(page)
        assert page.evaluate(_UNNAMED) == [], name
        # The browser's own tree agrees: no control of it is without a name.
        for line in page.locator("main").aria_snapshot().splitlines():
            kind = line.strip().removeprefix("- ").rstrip(":")
            assert kind not in _CONTROLS, name


def test_the_keyboard_reaches_every_tab_and_the_buttons(page):
    page.get_by_role("tab", name="Guide", exact=True).focus()
    for name in list(TABS)[1:]:
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent").strip() == name
        page.keyboard.press("Enter")
        panel = page.get_by_role("button", name=TABS[name], exact=True).filter(visible=True)
        panel.first.wait_for()
    open_tab(page, "Guide")
    page.get_by_role("tab", name="Runs", exact=True).focus()
    reached = []
    for _ in range(25):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.textContent").strip())
    assert "Run" in reached
    assert reached.index("Run") < next(i for i, text in enumerate(reached) if "More" in text)
