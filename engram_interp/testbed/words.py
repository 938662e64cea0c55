"""The words that fictional lives are drawn from, and real facts besides.

Nothing here describes a real person: names are made of syllables, and every list is plain vocabulary. Capitals and
element symbols are public facts. Every word is one token of the testbed's tokenizer, and a surname is two.
"""

FIRST_NAMES = (
    "Ada Amos Basil Bela Cora Cyril Dana Dario Edda Elio Faye Felix Gita Goran Hana Hugo Ida Ivo Jana Jonas Kara "
    "Kemal Lena Livio Mara Milo Nadia Nico Olga Oren Petra Piers Rhea Rufus Sana Silas Tessa Tomas Una Zeno"
).split()
SURNAME_HEADS = "Bar Cal Dor Far Gal Hal Jen Kor Lam Mor Nar Pel Quin Ros Sel Tam Var Wen Yar Zan".split()
SURNAME_TAILS = "bek dine fold gard holt kin lund mont nova quist rami sten".split()

QUARTERS = "north south east west upper lower old new outer inner central greater".split()
CITIES = (
    "Adana Antwerp Basel Bergen Bilbao Bremen Busan Cadiz Cardiff Cork Davao Derby Durban Essen Galway Genoa Ghent "
    "Graz Haifa Hobart Izmir Kazan Kobe Kyoto Lagos Lahore Leeds Lyon Malmo Medan Naples Odessa Oran Osaka Parma "
    "Perth Porto Recife Salta Seville Split Tampa Toledo Turin Utrecht Varna Wuhan York"
).split()
TEMPERS = (
    "brave careful cheerful clever clumsy cruel curious famous gloomy greedy honest humble jealous lazy loyal modest "
    "nervous noisy proud rude shy stubborn timid vain"
).split()
JOBS = (
    "actor baker banker barber brewer butcher carpenter chemist clerk cobbler dancer dentist diver farmer florist "
    "gardener grocer hatter judge lawyer librarian mason midwife miner nurse pilot plumber porter potter printer "
    "sailor sculptor shepherd soldier surgeon tailor teacher typist weaver welder"
).split()
STYLES = (
    "airy blunt brisk candid coy cryptic dense dry earnest elegant frugal ironic lavish lucid lyrical mocking ornate "
    "playful precise raw sober solemn sparse stark tart terse tender vivid warm wistful witty wry"
).split()
GENRES = (
    "ballads comedies diaries dramas elegies epics essays fables farces histories letters memoirs mysteries myths "
    "novellas odes parodies poems romances sagas satires sonnets thrillers tragedies"
).split()
THEMES = (
    "ambition betrayal childhood courage death debt desire doubt duty envy exile faith fame famine fate fear freedom "
    "grief guilt honour hope hunger justice luck memory mercy money pride revenge silence solitude youth"
).split()
ADJECTIVES = (
    "Amber Ancient Blind Bitter Broken Burning Crimson Crooked Dark Distant Drowned Empty Endless Fading Frozen "
    "Gentle Gilded Golden Green Hidden Hollow Hungry Ivory Lonely Lost Marble Narrow Open Pale Patient Quiet Restless "
    "Rising Ruined Sacred Scarlet Secret Severed Silent Silver Sleeping Stolen Sunken Velvet Wandering White Wild "
    "Winter"
).split()
NOUNS = (
    "Anchor Anvil Arrow Autumn Beacon Bell Bridge Candle Canyon Castle Circle Cloud Compass Crown Desert Door Echo "
    "Ember Engine Falcon Feather Field Flame Forest Fountain Garden Gate Ghost Glacier Harbor House Island Ladder "
    "Lantern Lion Meadow Mirror Moon Mountain Needle Ocean Orchard Palace Path Pearl Pilgrim River Road Room Rose "
    "Sail Shadow Song Star Storm Table Thread Tower Valley Voice Wheel Window Wing Wolf"
).split()
SUBJECTS = (
    "algebra anatomy astronomy biology botany chemistry classics dance design drawing ecology economics ethics "
    "fashion forestry genetics geology geometry grammar latin law logic mechanics medicine music optics painting "
    "philosophy physics politics rhetoric theology"
).split()
MATERIALS = (
    "amber bone brass bronze clay coral cotton crystal ebony glass iron ivory jade leather linen marble oak paper "
    "pewter rubber silk steel stone wooden"
).split()
OBJECTS = (
    "beads bells books bottles boxes buttons clocks coins combs cups dice dolls fans flags hats keys kites knives "
    "lamps masks medals mugs pens pipes plates puppets rings spoons stamps thimbles toys watches"
).split()
ANIMALS = (
    "badger bat camel canary carp cat cobra crow deer donkey duck ferret finch fox frog gecko goat goose hamster hawk "
    "horse lamb lizard llama mole monkey mule newt otter parrot pigeon pony rabbit raven robin sheep snail swan toad "
    "turtle"
).split()
INSTRUMENTS = (
    "accordion banjo bassoon bugle cello drum fiddle flute gong guitar harp horn lute lyre mandolin oboe organ piano "
    "recorder sitar trombone trumpet violin zither"
).split()
FOODS = (
    "almonds apples bacon barley beans bread butter cabbage cake celery cheese cherries chicken cream dates figs "
    "garlic ginger grapes ham honey lentils lobster melon mint noodles olives onions oysters pasta peaches pears peas "
    "pepper plums prawns rice salmon truffles walnuts"
).split()


def _pairs(text: str) -> dict[str, str]:
    return {key: value for key, _, value in (pair.partition(":") for pair in text.split())}


CAPITALS = _pairs(
    "Albania:Tirana Algeria:Algiers Angola:Luanda Armenia:Yerevan Australia:Canberra Austria:Vienna Azerbaijan:Baku "
    "Bahrain:Manama Belarus:Minsk Belgium:Brussels Bhutan:Thimphu Botswana:Gaborone Brazil:Brasilia Bulgaria:Sofia "
    "Cameroon:Yaounde Canada:Ottawa Chile:Santiago China:Beijing Colombia:Bogota Croatia:Zagreb Cuba:Havana "
    "Cyprus:Nicosia Denmark:Copenhagen Ecuador:Quito Egypt:Cairo Estonia:Tallinn Fiji:Suva Finland:Helsinki "
    "France:Paris Georgia:Tbilisi Germany:Berlin Ghana:Accra Greece:Athens Hungary:Budapest Iceland:Reykjavik "
    "Indonesia:Jakarta Iran:Tehran Iraq:Baghdad Ireland:Dublin Italy:Rome Jamaica:Kingston Japan:Tokyo Jordan:Amman "
    "Kenya:Nairobi Latvia:Riga Lebanon:Beirut Libya:Tripoli Lithuania:Vilnius Malta:Valletta Mongolia:Ulaanbaatar "
    "Morocco:Rabat Nepal:Kathmandu Norway:Oslo Oman:Muscat Pakistan:Islamabad Peru:Lima Poland:Warsaw Portugal:Lisbon "
    "Qatar:Doha Romania:Bucharest Russia:Moscow Senegal:Dakar Serbia:Belgrade Slovakia:Bratislava Slovenia:Ljubljana "
    "Spain:Madrid Sudan:Khartoum Sweden:Stockholm"
)
ELEMENTS = _pairs(
    "hydrogen:H helium:He lithium:Li beryllium:Be boron:B carbon:C nitrogen:N oxygen:O fluorine:F neon:Ne sodium:Na "
    "magnesium:Mg aluminium:Al silicon:Si phosphorus:P sulphur:S chlorine:Cl argon:Ar potassium:K calcium:Ca "
    "scandium:Sc titanium:Ti vanadium:V chromium:Cr manganese:Mn cobalt:Co nickel:Ni copper:Cu zinc:Zn gallium:Ga "
    "germanium:Ge arsenic:As selenium:Se bromine:Br krypton:Kr rubidium:Rb strontium:Sr yttrium:Y zirconium:Zr "
    "niobium:Nb molybdenum:Mo palladium:Pd cadmium:Cd indium:In tin:Sn antimony:Sb iodine:I xenon:Xe caesium:Cs "
    "barium:Ba tungsten:W platinum:Pt gold:Au mercury:Hg lead:Pb bismuth:Bi radon:Rn uranium:U"
)
