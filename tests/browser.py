# SPDX-License-Identifier: Apache-2.0
"""A headless Chromium, and a TensorBoard for it on this machine only."""

import contextlib
import re
import shutil
import subprocess
import sys
import threading

import pytest
from selenium import webdriver
from selenium.webdriver.support.wait import WebDriverWait

#: Everything below an element, through the shadow roots that hide it.
DEEP = """
function deep(root) {
  const found = [];
  for (const element of root.querySelectorAll('*')) {
    found.push(element);
    if (element.shadowRoot) found.push(...deep(element.shadowRoot));
  }
  return found;
}
"""


@contextlib.contextmanager
def browser():
    """A driver; skips the test where Chromium is absent."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    driver = shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("chromium or chromedriver is absent")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in (
        "headless=new",
        "no-sandbox",
        "disable-gpu",
        "disable-dev-shm-usage",
        "disable-background-networking",
        "disable-component-update",
        "disable-sync",
    ):
        options.add_argument(f"--{argument}")
    with webdriver.Chrome(options, webdriver.ChromeService(driver)) as opened:
        opened.set_page_load_timeout(60)
        yield opened


@contextlib.contextmanager
def tensorboard(logdir):
    """Serves a log folder; gives the address."""
    command = [
        *(sys.executable, "-m", "tensorboard.main", f"--logdir={logdir}"),
        *("--host=127.0.0.1", "--port=0", "--load_fast=false"),
        "--samples_per_plugin=images=100,scalars=10000",
    ]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as process:
        try:
            said = []
            for line in process.stderr:
                said.append(line)
                address = re.search(r"http://127\.0\.0\.1:\d+/", line)
                if address:
                    break
            else:
                raise AssertionError("".join(said))
            # A full pipe would stop it.
            drain = threading.Thread(target=process.stderr.read, daemon=True)
            drain.start()
            yield address[0]
        finally:
            process.terminate()


def count(driver, condition):
    """How many elements of the page fulfil a condition in JavaScript."""
    return driver.execute_script(
        f"{DEEP} return deep(document).filter(e => {condition}).length"
    )


def wait_for(driver, number, condition, *, seconds=30):
    """Waits until at least so many elements fulfil the condition."""
    message = f"no {number} elements of which {condition}"
    WebDriverWait(driver, seconds, 0.2).until(
        lambda driver: count(driver, condition) >= number, message
    )


def values(driver, condition, value):
    """An expression of each element that fulfils a condition."""
    return driver.execute_script(
        f"{DEEP} return deep(document).filter(e => {condition})"
        f".map(e => {value})"
    )
