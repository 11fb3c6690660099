"""The site's search knows the words of errors and wishes, from a folder and without a server."""

from pathlib import Path

import pytest

CHROMIUM = Path("/usr/bin/chromium")
ASKED = {
    "No module named 'mmcv._ext'": "faq_installing.html",
    "MMCV==2.2.0 is used but incompatible": "faq_installing.html",
    "no kernel image is available for execution on the device": "faq_installing.html",
    "sm_120": "faq_installing.html",
    "CUDA 12.8": "faq_installing.html",
    "CUDA 13": "faq_installing.html",
    "TORCH_CUDA_ARCH_LIST": "faq_installing.html",
    "Windows": "faq_installing.html",
    "MPS": "faq_installing.html",
    "Python 3.12": "faq_installing.html",
    "Python 3.13": "faq_installing.html",
    "NumPy 2": "faq_installing.html",
    "\"ms_deform_attn_forward_cuda\" not implemented for 'Half'": "faq_training.html",
    "BFloat16": "faq_training.html",
    "Not implemented on the CPU": "faq_training.html",
    "Fine-tuning": "faq_training.html",
    "size mismatch for class_embed": "faq_training.html",
    "few GPUs": "one_gpu.html",
    "one GPU": "one_gpu.html",
    "learning rate by batch": "one_gpu.html",
    "gradient accumulation": "one_gpu.html",
    "warm-up": "one_gpu.html",
    "AMP": "one_gpu.html",
    "gradient checkpointing": "one_gpu.html",
    "EMA": "one_gpu.html",
    "early stopping": "one_gpu.html",
    "best checkpoint": "one_gpu.html",
    "CUDA out of memory": "faq_training.html",
    "Denoising queries": "faq_training.html",
    "memory grows with the number of boxes": "faq_training.html",
    "Host memory": "faq_training.html",
    "memory leak": "faq_training.html",
    "FLOPs fall, speed does not": "faq_deploying.html",
    "dynamic batch": "faq_deploying.html",
    "dynamic size": "faq_deploying.html",
    "OpenVINO": "faq_deploying.html",
    "NVIDIA/TensorRT#4813": "faq_deploying.html",
    "GridSample": "faq_deploying.html",
    "TensorRT GridSample": "faq_deploying.html",
}


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM.is_file():
        pytest.skip(f"there is no {CHROMIUM}")
    with playwright.sync_playwright() as started:
        running = started.chromium.launch(
            executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-gpu"]
        )
        yield running
        running.close()


@pytest.mark.slow
def test_the_search_answers_in_a_browser_without_a_server(browser, site):
    page = browser.new_page(viewport=dict(width=1280, height=860))
    page.goto((site / "index.html").as_uri())
    links, wrong = page.locator("a.md-search-result__link"), {}
    for words, expected in ASKED.items():
        for typed, shown in (("", "length == 0"), (words, "length > 0")):
            page.fill("input.md-search__input", typed)
            page.press("input.md-search__input", "End")  # the page looks when a key is released
            page.wait_for_function(
                f"document.querySelectorAll('a.md-search-result__link').{shown}", timeout=60_000
            )
        actual = links.evaluate_all("all => all.map(link => link.href)")
        if not any(expected in link for link in actual[:5]):
            wrong[words] = actual[:5]
    assert not wrong
