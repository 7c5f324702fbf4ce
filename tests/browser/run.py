#!/usr/bin/env python3
"""The dashboard in a real browser: it loads, shows live data of `lumpd demo`, answers a dropped image, works with the keyboard and
on a phone, explains what is empty, paused or lost, and writes no error to the console.

    tests/browser/run.py [--lumpd target/release/lumpd] [--screenshots FOLDER]

Chromium and its driver are installed from the system's packages where they are missing and that is possible (Debian, as root);
where they cannot be had, the script says so and ends with success.
"""

import argparse
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

from webdriver import Browser

HERE = pathlib.Path(__file__).resolve().parent

DROP = """
const [id, done] = arguments;
fetch(`/v1/images/${id}/thumbnail`).then((answer) => answer.blob()).then((blob) => {
  const transfer = new DataTransfer();
  transfer.items.add(new File([blob], "dropped.png", { type: "image/png" }));
  document.getElementById("drop").dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true }));
  done(true);
});
"""


COMPLETE = "return [...document.querySelectorAll('#newest img')].every((img) => img.complete && img.naturalWidth > 1)"


def have_browser():
    found = (shutil.which("chromium") or shutil.which("chromium-browser")) and shutil.which("chromedriver")
    if not found and shutil.which("apt-get") and os.geteuid() == 0:
        print("installing chromium and chromium-driver")
        subprocess.run(["apt-get", "update", "-q"], check=False, stdout=subprocess.DEVNULL)
        subprocess.run(["apt-get", "install", "-y", "-q", "chromium", "chromium-driver"], check=False,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        found = shutil.which("chromium") and shutil.which("chromedriver")
    return bool(found)


class Lumpd:
    """A process of the binary that serves the API; ended with the block."""

    def __init__(self, binary, *arguments):
        self.process = subprocess.Popen([binary, *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.address, self.lines = None, []
        threading.Thread(target=self._read, daemon=True).start()
        end = time.monotonic() + 60
        while self.address is None and time.monotonic() < end:
            time.sleep(0.1)
        assert self.address, "it does not say where it listens: " + "".join(self.lines)

    def _read(self):
        for line in self.process.stdout:
            self.lines.append(line)
            found = re.search(r"http://([\d.]+:\d+)", line)
            self.address = self.address or (found and found[1])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()


def check(holds, what):
    assert holds, what
    print("  ok   " + what)


def no_console_error(browser, expected=()):
    loud = [entry for entry in browser.log() if entry["level"] in ("SEVERE", "WARNING")]
    loud = [entry["message"] for entry in loud if not any(word in entry["message"] for word in expected)]
    check(not loud, "no error or warning in the console" + "".join("\n    " + message for message in loud))


def empty_daemon(browser, lumpd, screenshots):
    print("a daemon that has seen nothing")
    with tempfile.TemporaryDirectory() as folder:
        with Lumpd(lumpd, "run", "--state-dir", folder, "--listen", "127.0.0.1:0", "--set", "device.kind=cpu") as daemon:
            browser.open(f"http://{daemon.address}/")
            browser.wait("the state", lambda: browser.text("#state") == "running")
            browser.wait("the empty state", lambda: "Nothing has come in yet" in browser.text("#notices"))
            check("No image is stored yet" in browser.text("#newest"), "it says that nothing is stored and what to do")
            no_console_error(browser, expected=["503"])
            if screenshots:
                browser.screenshot(screenshots / "dashboard-empty.webp", 700)
        browser.wait("the lost connection", lambda: browser.text("#state") == "connection lost", 30)
        check("has not answered for" in browser.text("#notices"), "it explains a lost connection")
        browser.log()


def live_daemon(browser, lumpd, screenshots, seconds):
    print("a daemon at work: lumpd demo")
    with Lumpd(lumpd, "demo", "--rate", "40", "--listen", "127.0.0.1:0", "--set", "device.kind=cpu") as daemon:
        browser.open(f"http://{daemon.address}/")
        browser.wait("the state", lambda: browser.text("#state") == "running")
        check(browser.run("return document.title") == "lumpd", "it loads")
        browser.wait("thumbnails", lambda: browser.count("#newest img") > 8)
        loaded = "return [...document.querySelectorAll('#newest img')].some((img) => img.naturalWidth > 0)"
        browser.wait("a picture", lambda: browser.run(loaded))
        first = browser.text("#tiles")
        browser.wait("live numbers", lambda: browser.text("#tiles") != first)
        browser.wait("the chart of the rate", lambda: browser.count("#rate svg path.line") == 1)
        browser.wait("the loss", lambda: browser.count("#loss svg path.line") == 1, 120)
        check(True, "it shows live data: pictures, numbers and charts that move")

        browser.wait("a stored image", lambda: browser.count("#newest .thumb") > 8)
        browser.run_async(DROP, browser.run_async(
            "const done = arguments[0]; fetch('/v1/images?order=newest&limit=1').then((a) => a.json()).then((l) => done(l.images[0].id))"))
        browser.wait("neighbours", lambda: browser.count("#answer .thumb") > 5)
        check("nearest to yours" in browser.text("#answer-note"), "a dropped image finds its neighbours")
        with tempfile.TemporaryDirectory() as folder:
            wrong = pathlib.Path(folder) / "no-image.png"
            wrong.write_text("this is no image")
            browser.type("#file", str(wrong))
            browser.wait("the refusal", lambda: "No answer" in browser.text("#answer-note"))
        check("JPEG" in browser.text("#answer-note"), "what is no image is refused with what to do")
        browser.log()  # the browser reports the refused request itself

        # The stream goes on: what is found may be gone before a pointer reaches it.
        browser.run("document.querySelector('#newest .thumb').click()")
        browser.wait("the dialog", lambda: browser.count("#detail[open]") == 1)
        browser.wait("its source", lambda: "camera" in browser.text("#d-facts"))
        browser.type("#d-name", "checked by hand")
        browser.click("#d-label button[type=submit]")
        browser.wait("the label", lambda: "checked by hand" in browser.text("#d-facts"))
        check(True, "an image opens, shows its source, and takes a label")
        browser.keys("\ue00c")
        browser.wait("the dialog to close", lambda: browser.count("#detail[open]") == 0)

        browser.click("#pause")
        browser.wait("the pause", lambda: browser.text("#state") == "training paused")
        check("Training rests since" in browser.text("#notices"), "it explains that training rests")
        browser.click("#pause")
        browser.wait("the resumption", lambda: browser.text("#state") == "running")

        browser.run("document.activeElement.blur(); window.scrollTo(0, 0)")
        seen = set()
        for _ in range(160):
            browser.keys("\ue004")
            seen.add(browser.run("const e = document.activeElement; return e.id || e.className || e.tagName"))
        check({"mark", "pause", "file", "map"} <= seen, "everything that can be pressed can be reached with the tab key")
        browser.run("document.getElementById('map').focus()")
        browser.wait("points", lambda: "stored images by version" in browser.text("#map-note"))
        browser.keys("\ue014")
        browser.wait("the tip", lambda: browser.count("#map-tip:not([hidden])") == 1)
        browser.keys("\ue007")
        browser.wait("the dialog", lambda: browser.count("#detail[open]") == 1)
        browser.keys("\ue00c")
        check(True, "the map works with the keyboard")

        browser.wait("two tasks", lambda: browser.count("#tasks > li") >= 2, 180)
        browser.wait("a shot of a task", lambda: browser.count("#tasks .shots img") > 3)
        check(browser.count("#timeline rect") >= 2, "the timeline shows the tasks that were found")
        browser.size(390, 844, phone=True)
        wide = browser.run("return document.documentElement.scrollWidth <= window.innerWidth")
        check(wide, "nothing is wider than a phone")
        no_console_error(browser)

        if screenshots:
            browser.run("document.activeElement.blur()")
            browser.size(1320, 900)
            end = time.monotonic() + seconds
            browser.wait("a measured task", lambda: browser.count("#forgetting td.on") > 2 or time.monotonic() > end, seconds + 20)
            browser.run_async(DROP, browser.run_async(
                "const done = arguments[0]; fetch('/v1/images?order=newest&limit=1').then((a) => a.json()).then((l) => done(l.images[0].id))"))
            time.sleep(3)
            for scheme in ("light", "dark"):
                browser.scheme(scheme)
                browser.run("window.dispatchEvent(new Event('resize'))")
                time.sleep(1.5)
                browser.wait("every picture", lambda: browser.run(COMPLETE))
                browser.screenshot(screenshots / f"dashboard-{scheme}.webp")
            browser.scheme("light")
            browser.size(390, 844, phone=True)
            browser.run("window.dispatchEvent(new Event('resize'))")
            time.sleep(1.5)
            browser.wait("every picture", lambda: browser.run(COMPLETE))
            browser.screenshot(screenshots / "dashboard-phone.webp", 1900)
            browser.size(1320, 900)
            no_console_error(browser)
        browser.open(f"http://{daemon.address}/docs")
        browser.wait("the documentation", lambda: browser.count("main.docs details") > 20)
        check("/v1/query" in browser.text("main.docs"), "the documentation lists the API")
        if screenshots:
            browser.run("document.querySelectorAll('details')[5].open = true")
            browser.screenshot(screenshots / "docs.webp", 1100)
        no_console_error(browser)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lumpd", default=str(HERE.parent.parent / "target/release/lumpd"), help="the binary")
    parser.add_argument("--screenshots", type=pathlib.Path, help="keep pictures of the pages in this folder")
    parser.add_argument("--seconds", type=float, default=150, help="with --screenshots: how long to wait for measured tasks")
    arguments = parser.parse_args()
    if not pathlib.Path(arguments.lumpd).exists():
        sys.exit(f"{arguments.lumpd} is missing: build it with `cargo build --release`, or name another with --lumpd")
    if not have_browser():
        print("skipped: chromium and chromium-driver are not installed and cannot be had here")
        return
    if arguments.screenshots:
        arguments.screenshots.mkdir(parents=True, exist_ok=True)
    browser = Browser()
    try:
        browser.size(1320, 900)
        empty_daemon(browser, arguments.lumpd, arguments.screenshots)
        live_daemon(browser, arguments.lumpd, arguments.screenshots, arguments.seconds)
    finally:
        browser.close()
    print("all is well")


if __name__ == "__main__":
    main()
