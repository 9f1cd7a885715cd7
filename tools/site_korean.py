"""Korean navigation for the Korean pages of the site, whose other pages are English."""

import re
from pathlib import Path

import zensical

LANGUAGES = Path(zensical.__file__).parent / "templates" / "partials" / "languages"

TITLES = {
    "Home": "홈",
    "Try it": "체험하기",
    "Tutorials": "튜토리얼",
    "How to": "사용 안내",
    "Reference": "레퍼런스",
    "Explanation": "설명",
    "Changes": "변경 사항",
    "Your first image": "첫 이미지",
    "From outlines to a model, on thirty images": "윤곽선에서 모델까지: 이미지 30장으로(영어)",
    "PSPNet, from the idea to a trained network": "PSPNet: 아이디어에서 학습된 네트워크까지(영어)",
    "Which model should I take?": "어떤 모델을 고를까요?",
    "Questions and answers": "질문과 답변",
    "Segment folders of images": "폴더의 이미지 분할하기",
    "Segment videos": "동영상 분할하기",
    "Segment in bulk: one machine, a cluster, object storage": "대량 분할: 한 대, 클러스터, 오브젝트 스토리지",
    "Prepare data": "데이터 준비하기",
    "Train a model": "모델 학습하기",
    "Fine-tune on your own classes": "내 클래스로 미세 조정하기",
    "Distill a fast model from a large one, with your own photos": "내 사진으로 큰 모델을 작은 모델에 증류하기",
    "Evaluate a model": "모델 평가하기",
    "Export a model": "모델 내보내기",
    "Use a checkpoint of another project": "다른 프로젝트의 체크포인트 사용하기",
    "Publish a checkpoint on the Hugging Face Hub": "Hugging Face Hub에 체크포인트 공개하기",
    "Load with torch.hub": "torch.hub로 불러오기",
    "Move from segmentation_models_pytorch": "segmentation_models_pytorch에서 옮겨 오기",
    "Try models in a page on your machine": "내 컴퓨터의 웹 페이지에서 모델 써 보기",
    "Reproduce the bundled weights": "내장 가중치 재현하기",
    "API": "API",
    "Checkpoints": "체크포인트",
    "Backbones": "백본",
    "Recipes": "레시피",
    "Data layouts": "데이터 구조",
    "A checkpoint on disk": "체크포인트 파일 형식",
    "What is guaranteed": "보장하는 것",
    "How the network is built, and why": "네트워크의 구조와 그 이유",
    "Why the same weights need the right network": "공개된 네트워크들의 차이",
    "Why published protocols disagree": "공개된 수치가 서로 다른 이유",
    "How fast it is on a CPU, and why": "CPU에서의 속도와 그 이유",
    "What limits the speed for many images": "많은 이미지를 처리할 때의 한계",
}
"""The titles of the navigation; one that is missing here stays English."""


def translate(page: str) -> str:
    """The HTML of a page with Korean navigation, labels and language; its article stays as it is."""
    english, korean = (_labels(language) for language in ("en", "ko"))
    words = {english[key]: korean[key] for key in english.keys() & korean.keys() if english[key].strip()} | TITLES
    before, opening, rest = page.partition("<article")
    article, closing, after = rest.partition("</article>")
    before, after = (_translated(part, words) for part in (before, after))
    return before.replace('<html lang="en"', '<html lang="ko"') + opening + article + closing + after


def _labels(language: str) -> dict[str, str]:
    """The labels of the theme in a language, by key."""
    return dict(re.findall(r'^  "([\w.]+)": "(.*)",?$', (LANGUAGES / f"{language}.html").read_text(), re.MULTILINE))


def _translated(html: str, words: dict[str, str]) -> str:
    """The HTML with each text and quoted value that is one of the words, and `WORD: WORD`, replaced."""

    def replace(found: re.Match[str]) -> str:
        start, text, end = found.groups()
        head, colon, tail = text.partition(": ")
        if text in words:
            return start + words[text] + end
        return start + words.get(head, head) + colon + words.get(tail, tail) + end

    return re.sub(r"(>\s*)([^<>]*[^<>\s])(\s*<)", replace, re.sub(r'(")([^"<>]+)(")', replace, html))
