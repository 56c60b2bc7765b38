# SPDX-License-Identifier: Apache-2.0
"""Words: between spaces where there are any, else near the count of ICU's word segmentation."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainers.text.words import count_words


@pytest.mark.parametrize(
    ("text", "n_icu"),  # Intl.Segmenter(language, {granularity: "word"}) of Node 20, ICU 78.2: segments that are words
    [
        ("すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。", 19),
        ("人間は、理性と良心とを授けられており、互いに同胞の精神をもって行動しなければならない。", 24),
        ("昨日は友達と一緒に新しい映画を見に行きました。", 14),
        ("東京タワーの近くにあるカフェでコーヒーを飲んだ。", 13),
        ("彼女は毎朝六時に起きて公園を走っている。", 13),
        ("お問い合わせはホームページのフォームからお願いします。", 10),
        ("人人生而自由,在尊严和权利上一律平等。", 11),
        ("他们赋有理性和良心,并应以兄弟关系的精神相对待。", 15),
        ("昨天我和朋友一起去看了一部新电影。", 9),
        ("請透過網站上的表格與我們聯繫。", 9),
        ("มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ", 15),
        ("เมื่อวานนี้ฉันไปดูหนังเรื่องใหม่กับเพื่อน", 11),
        ("មនុស្សទាំងអស់កើតមកមានសេរីភាព និងសមភាពក្នុងសេចក្តីថ្លៃថ្នូរ និងសិទ្ធិ", 12),
        ("ມະນຸດທຸກຄົນເກີດມາມີກຽດສັກສີ, ສິດທິ, ເສລີພາບ ແລະ ຄວາມສະເໝີພາບເທົ່າທຽມກັນ", 13),
        (
            "လူတိုင်းသည် တူညီ လွတ်လပ်သော ဂုဏ်သိက္ခာဖြင့် လည်းကောင်း၊ တူညီလွတ်လပ်သော အခွင့်အရေးများဖြင့် လည်းကောင်း မွေးဖွားလာသူများ ဖြစ်သည်",
            21,
        ),
    ],
)
def test_words_of_scripts_without_spaces_are_within_two_fifths_of_icus(text: str, n_icu: int) -> None:
    assert abs(count_words(text) - n_icu) <= 0.4 * n_icu


@pytest.mark.parametrize(
    ("text", "n"),
    [
        ("", 0),
        ("five words are in this", 5),
        ("naïve café in Zürich", 4),
        ("모든 인간은 태어날 때부터 자유로우며", 5),
        ("Ἐν ἀρχῇ ἦν ὁ λόγος", 5),
        ("सभी मनुष्यों को गौरव", 4),
        ("an em dash — between", 5),
        ("…", 1),
    ],
)
def test_words_between_spaces_are_counted_as_they_are(text: str, n: int) -> None:
    assert count_words(text) == n == len(text.split())


def test_a_word_of_another_script_among_letters_without_spaces_is_one_word() -> None:
    assert count_words("iPhoneを買いました。") == count_words("を買いました。") + 1


@given(text=st.text())
def test_there_are_never_fewer_words_than_between_spaces(text: str) -> None:
    assert count_words(text) >= len(text.split())
