"""Words by which a short caption is known to be English: function words, and what captions are about.

A word that another language of the Latin script has too, such as "in", "door" or "train", proves nothing alone.
"""

import re

MIN_SHARE = 0.5  # of the words of a caption that must be English
_WORD = re.compile(r"[^\W\d_]+(?:'[a-z]+)?")
_OWN_WORDS = """
    the and with from this that these those there his her its their your our what which who how not are was were
    been being have has had does did doing would could should into onto under between behind beside near above below
    across through around against without within before after while when where few many much some any each every
    other another both very more most two three four five six seven eight nine eleven twelve twenty thirty hundred
    thousand black white red blue green yellow brown purple grey gray golden silver bright colorful colourful wooden
    small large little short wide young full empty closed dry high round woman women boy girl boys girls child
    children people crowd family player rider driver dog dogs cats bird birds horse horses cow cows sheep bear duck
    chicken fish bee butterfly car cars truck bike bicycle motorcycle airplane ship street road bridge sidewalk
    house houses building buildings church tower kitchen bathroom bedroom window floor roof chair bed desk shelf
    toilet mirror clock keyboard screen tree trees flower flowers grass forest mountain mountains hill hills river
    lake ocean beach sky cloud clouds sun moon snow field garden rocks stone leaf leaves sunset sunrise autumn
    spring night day food bowl cup bottle bread cheese apples oranges bananas carrots cake breakfast lunch dinner
    coffee knife spoon shirt shoes shoe jacket coat umbrella backpack soccer kite game picture photograph painting
    drawing sketch shot view closeup background foreground circle square shape shapes lines corner left right top
    bottom side front sitting standing walking running riding holding wearing looking playing eating flying lying
    laying parked driving jumping smiling talking reading sleeping working cutting making taking posing hanging
    equation formula chart table graph diagram page text number slide form score report
    filled covered made remove change add replace move turn colour color
"""
_SHARED_WORDS = """
    a an i is it in on of at to by for as or no one be he she we you me my so up off out all over during back man
    men person baby couple cat elephant zebra giraffe train plane boat bus taxi traffic room door wall couch sofa
    sink lamp laptop phone sea water rain rock winter summer plate glass apple orange carrot sandwich pizza dress
    hat bag tie ball baseball racket skateboard surfboard skis snowboard photo image triangle rectangle star line
    close big tall long old new open wet low dark pink
"""
_OWN, _SHARED = frozenset(_OWN_WORDS.split()), frozenset(_SHARED_WORDS.split())


def is_english(text: str) -> bool:
    """Whether half of the words are English, one of them of no near language; or all of two and more words."""
    words = [word for word in _WORD.findall(text.lower()) if len(word) > 1 or word in ("a", "i")]  # 3x is no word
    own = sum(word in _OWN for word in words)
    known = own + sum(word in _SHARED for word in words)
    if known == len(words):
        return own > 0 or known > 1
    return own > 0 and known >= MIN_SHARE * len(words)
