"""Patterns that texts of records are searched for: templates, markup, URLs, control tokens, boilerplate."""

import html.entities
import re

_ENTITIES = "|".join(name[:-1] for name in html.entities.html5 if name.endswith(";"))
GENERATION = re.compile(
    r"(?is)^\s*generate an? image of (?:\{resolution_tag\}\s*,\s*)?(?:the )?content of (?:the )?image is\s*"
)
EDITING = re.compile(r"(?is)^\s*(?:please )?edit the image according to the instruction:\s*")
DESCRIBE = re.compile(r"(?i)\b(describe|caption|what (?:is|does|can).{0,20}\b(?:image|picture|photo)\b)")
INVISIBLE = re.compile(r"[\s\u200b-\u200f\u2028-\u202f\u2060-\u2069\ufeff\u00ad\u180e\u3000\u00a0]+")
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\x80-\x9f\u200b\u2060\ufeff\u202a-\u202e\u2066-\u2069\ufff9-\ufffb]")
CONTROL_TOKENS = re.compile(
    r"<\|[^|<>\s]{1,60}\|>|</?s>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_\w+>|<(?:height|width)_\d+>|</?think>"
    r"|<(?:pad|unk|bos|eos|mask|image|img|vision)\s*/?>|\{resolution_tag\}"
)
HTML = re.compile(
    r"(?i)</?(?:p|div|span|a|b|i|u|em|strong|br|hr|img|ul|ol|li|h[1-6]|table|tr|td|th|script|style|font|html|head|body"
    r"|title|iframe|form|input|center|blockquote|code|pre|sup|sub|meta|link)(?:\s[^<>]{0,500})?/?>"
    r"|<!--|<!doctype|!\[[^\]\n]{0,200}\]\([^)\n]{1,500}\)"
    # A letter in brackets is markup only where it is closed.
    r"|\[(?P<tag>b|i|u|url|img|quote|code)(?:=[^\]\n]{0,200})?\](?=.{0,500}\[/(?P=tag)\])|\[/(?:b|i|u|url|img|quote|code)\]"
    rf"|&(?:{_ENTITIES}|#\d{{2,6}}|#x[0-9a-f]{{2,6}});"
)
URL = re.compile(
    r"(?i)\b(?:https?|ftp|file|s3)://\S|\bwww\.[a-z0-9-]+\.[a-z]{2,}|\bdata:[a-z]+/[a-z.+-]+;base64,"
    r"|\b(?:[a-z0-9-]{1,63}\.){1,4}(?:com|org|net|edu|gov|info|biz|shop|io|co|ly|gl|me|tv|eu|de|fr|uk|it|es|nl|ru|cn|jp)/[\w~%?#]"
)
FILE_NAME = re.compile(
    r"(?i)^\s*(?:[^\n/\\]{1,200}\.(?:jpe?g|png|gif|webp|bmp|tiff?|heic|avif|raw|cr2|nef|psd|svg)"
    r"|(?:img|dsc[nf]?|dscf|pict?|mvi|gopr|pxl|wp|vid|screenshot|scan|photo|image|p)[-_ ]?\d{3,}[-_\d ]*"
    r"|(?:untitled|unbenannt|new image|image|photo|picture|scan|copy of [^\n]{1,60})[-_ ]?\d*"
    r"(?:\s*\((?:copy|\d+)\))*)\s*$"
)
FILE_NAME_WORDS = re.compile(r"(?i)^\s*(?:an? )?(?:image|photo|picture|scan)\s*$")  # plain words, not a file's name
# BOILERPLATE and INJECTION are searched for in lower-cased text.
BOILERPLATE = re.compile(
    r"\b(?:image may contain|no (?:photo |image )?(?:description|caption) available|may be an? (?:image|photo) of"
    r"|bild könnte enthalten|peut être une image de|l'image peut contenir|puede ser una imagen de"
    r"|la imagen puede contener|pode ser uma imagem de|keine (?:foto)?beschreibung verfügbar"
    r"|aucune description (?:de photo )?disponible|nessuna descrizione (?:della foto )?disponibile"
    r"|stock (?:photo|image|vector)s? (?:of|by)|click (?:here )?to (?:enlarge|view|zoom|see)|all rights reserved"
    r"|this (?:image|photo|file) (?:is|was) (?:licensed|uploaded)"
    r"|image not (?:found|available)|loading image|advertisement$)\b"
    # Texts that an image can show too, on a sign or a screen, are boilerplate only at the start of a caption.
    r"|^\W*(?:(?:please |this |our )?(?:free shipping on|subscribe to our|sign up for our newsletter|follow us on"
    r"|we use cookies|(?:web)?site uses cookies|accept (?:all )?cookies|enable javascript"
    r"|(?:error )?404 (?:error|not found|page)|page not found"
    r"|as an ai (?:language )?model|i'?m sorry, (?:but )?i (?:can(?:'t|not)|am unable))\b"
    r"|(?:thumbnail|loading|add to (?:cart|basket|bag|wish ?list)|buy now)(?:\W*$|\. ))"
)
INJECTION = re.compile(
    r"\b(?:ignore|disregard|forget|override) (?:all |any |of |the |your |these |everything )*"
    r"(?:(?:previous|prior|above|earlier|preceding) (?:instructions|prompts|rules|messages|directions)|above\b)"
    r"|\b(?:reveal|print|show|repeat|output|leak) (?:me )?(?:your|the) (?:(?:hidden|secret|full|entire) )*system prompt"
    r"|\byou are now (?:an? |in )?(?:unrestricted|unfiltered|jailbroken|developer mode|dan\b)"
    r"|#{2,} ?(?:human|user|assistant|system|instruction|response) ?:"
)
EMPTY_CAPTION = re.compile(r"(?i)^\W*(?:null|none|nan|n/?a|undefined|no (?:caption|title|text|description))\W*$")
LOREM = re.compile(r"(?i)\blorem ipsum\b")
