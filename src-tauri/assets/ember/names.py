"""Names of tools and parameters that nobody has heard of, for tools.py: a verb and a thing, in the styles of real tools.

One name in seven is held out: training never sees it, evaluate.py asks for it. So are all names with a word of UNHEARD.
"""
import re
import zlib

VERBS = """get find make open close read list check move save add delete remove create update edit rename copy send fetch load store
start stop pause resume play record upload download share print scan sort filter count merge split join compare convert encode decode
lock unlock enable disable turn set reset clear show hide draw paint measure weigh mix cook order buy sell pay book cancel confirm
approve reject assign invite call reply forward archive restore publish test run build deploy install plan schedule track follow
watch block report rate review translate describe summarise clean wash fill empty fix repair replace inspect lift drop push pull turn
feed water plant heat cool dim ring greet notify remind log sign stamp verify import export sync query insert append trim crop rotate
attach detach connect pair mount eject format submit request return rent lend borrow collect gather pick pack ship deliver""".split()
THINGS = """file user order note light door page room price task invoice garage ticket account address album alarm animal answer app
area article balance bank battery bill bird block board body boiler bottle box branch budget bug building bus button cable calendar
camera car card cart case chapter charge chart chat class client clip cloud coach code coffee colour column comment company contact
contract course customer dataset day deck delivery device diary disk dish document dog drawer driver email employee entry error event
expense fan farm fence field film flag flight floor flower folder font forecast form frame fridge game garden gate gift goal grade
graph group guest guide heater holiday home horse hotel hour house image index item job journey key kitchen label lamp lane lesson
library licence lift line link list log machine map market meal meeting member menu meter mirror model money mood movie music
name news number oven package parcel park part password patient payment pet phone photo piece pipe plan plane plate player playlist
point pool port post poster printer product profile project pump quote race radio rain receipt recipe record report ring road robot
roof route row rule sale school score screen seat sensor server shelf ship shop shower sign site slide song sound stage star station
status step stock store story street student survey switch table tag tank target team text thread tile title token tool tower toy
track trade train tree trip truck tv unit user valve van video view visit voice vote wall wallet watch water website week wheel wifi
window wire word yard zone""".split()
# The middle of a name of three parts.
MIDDLES = "new old all first last next daily weekly open main front back public private local remote home work user team shop garden kitchen car".split()
KEYS = """name id path level title count colour date owner size text city email phone address price amount unit kind type mode status
priority label tag note reason body subject sender target source folder file format language country street room floor seat row
column width height depth weight speed volume brightness temperature duration minutes hours start end limit offset page query filter
sort first last number code key value token user team project device channel topic message link image song recipe animal brand model
year month day time place point shape material author genre score rating""".split()
WHOLE = set("id level count size price amount floor seat row width height depth weight speed volume brightness temperature duration "
            "minutes hours limit offset page number year month day score rating".split())
# Never in a name that training sees, whole or as a part.
UNHEARD = set("fetch archive rotate inspect remind lend mount greet invoice garage recipe tower parcel sensor wallet horse boiler survey valve ".split())
# What the trunk saw before names could be held out.
FORMER_VERBS, FORMER_THINGS = set(VERBS[:10]), set(THINGS[:10])


def parts_of(name):
    """The words of a name in any style, in lower case."""
    return [part.lower() for part in re.findall(r"[A-Za-z][a-z0-9]*", name)]


def held_out(name):
    """Whether training must not see this name. The same words in another style are the same name."""
    parts = parts_of(name)
    if len(parts) == 2 and parts[0] in FORMER_VERBS and parts[1] in FORMER_THINGS:
        return False
    return unheard(name) or zlib.crc32("_".join(parts).encode()) % 7 == 0


def unheard(name):
    """Whether a word of the name is in no name that training sees."""
    return not UNHEARD.isdisjoint(parts_of(name))


def styled(rng, parts):
    """snake_case mostly, else camelCase; rarely PascalCase."""
    style = rng.random()
    if style < 0.65:
        return "_".join(parts)
    first = parts[0] if style < 0.95 else parts[0].capitalize()
    return first + "".join(part.capitalize() for part in parts[1:])


def tool_name(rng, wanted=lambda name: not held_out(name), like=None):
    """A name for which `wanted` holds; `like` is one to resemble, by its verb or by what follows it."""
    while True:
        parts = [rng.choice(VERBS), rng.choice(THINGS)]
        if rng.random() < 0.25:
            parts.insert(1, rng.choice(MIDDLES + THINGS[:60]))
        if like:
            other = parts_of(like)
            parts = [other[0]] + parts[1:] if rng.random() < 0.6 else parts[:1] + other[1:]
        name = styled(rng, parts)
        if wanted(name) and (not like or parts_of(name) != parts_of(like)):
            return name


def parameter_names(rng, count):
    """Different names, mostly of one word; with the kind of value each takes."""
    out = {}
    while len(out) < count:
        key = rng.choice(KEYS)
        kind = "integer" if key in WHOLE else "string"
        if rng.random() < 0.15:
            key = styled(rng, [rng.choice(THINGS), key]) if rng.random() < 0.5 else f"{rng.choice(MIDDLES)}_{key}"
        out[key] = kind
    return out
