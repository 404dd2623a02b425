//! The names, descriptions and prices (in euro cents) of the demo products: a small shop for plants, tea and accessories.

/// Name, description, price.
type Row = (&'static str, &'static str, i64);

/// The oldest product, of which there are only three units: its sku, its category, and the rest.
pub const RAREST: (&str, &str, Row) = (
    "rare-fig",
    "plants",
    (
        "Rare fig",
        "A banyan seedling from the mother tree, numbered and potted by hand. Hardly ever in stock.",
        14_900,
    ),
);

/// For each word that a sku starts with: the category, and its products in the order of their numbers.
pub const SHELVES: [(&str, &str, [Row; 17]); 7] = [
    (
        "plant",
        "plants",
        [
            (
                "Weeping fig",
                "Ficus benjamina, 60 cm, in a nursery pot. Likes bright corners and hates being moved.",
                2_490,
            ),
            (
                "Rubber plant",
                "Ficus elastica with dark, glossy leaves, 50 cm. Forgives a missed watering.",
                2_290,
            ),
            (
                "Fiddle-leaf fig",
                "Ficus lyrata, 90 cm, three stems. The big statement for a light room.",
                5_990,
            ),
            (
                "Swiss cheese plant",
                "Monstera deliciosa with the first split leaves, on a moss pole.",
                3_490,
            ),
            (
                "Snake plant",
                "Sansevieria, 40 cm. Lives in dark hallways and asks for nothing.",
                1_790,
            ),
            (
                "Golden pothos",
                "Trails two metres in a year; for shelves and hanging pots.",
                1_290,
            ),
            (
                "Peace lily",
                "White flowers from spring to autumn, droops politely when thirsty.",
                1_590,
            ),
            ("ZZ plant", "Zamioculcas, 55 cm, stores its water in the roots.", 2_190),
            ("Aloe vera", "A kitchen-sill classic; the gel soothes small burns.", 990),
            (
                "Jade plant",
                "Crassula ovata, ten years old and already a little tree.",
                2_990,
            ),
            (
                "Boston fern",
                "A full green fountain for bathrooms with a window.",
                1_490,
            ),
            (
                "String of pearls",
                "Little green beads on long threads, in a hanging pot.",
                1_690,
            ),
            (
                "Olive tree",
                "Olea europaea, 80 cm, for sunny balconies; winters frost-free.",
                3_990,
            ),
            (
                "Lemon tree",
                "Bears fruit from the third year; comes with a care card.",
                4_490,
            ),
            ("Dwarf banana", "Musa, 70 cm. Grows a leaf a week in summer.", 2_790),
            (
                "Bonsai ficus",
                "Ficus retusa, eight years, shaped by hand, with a ceramic tray.",
                4_990,
            ),
            (
                "Air plant trio",
                "Three tillandsias that live on air and a weekly bath.",
                1_390,
            ),
        ],
    ),
    (
        "seed",
        "seeds",
        [
            (
                "Basil seeds",
                "Genovese basil for pesto, about 300 seeds, organic.",
                290,
            ),
            (
                "Tomato seeds, Black Krim",
                "An old beefsteak variety with dark, sweet fruit.",
                350,
            ),
            ("Chilli seeds, Jalapeño", "Medium hot; pick green or wait for red.", 320),
            (
                "Sunflower seeds, giant",
                "Three metres in one summer. For children who like to measure.",
                250,
            ),
            (
                "Lavender seeds",
                "True lavender for pots and borders, loved by bees.",
                310,
            ),
            (
                "Wildflower mix",
                "Forty native flowers for ten square metres of meadow.",
                690,
            ),
            ("Radish seeds", "From seed to plate in four weeks.", 220),
            ("Rocket seeds", "Peppery salad leaves, cut and come again.", 240),
            (
                "Pumpkin seeds, Hokkaido",
                "Needs no peeling; one plant feeds a family.",
                330,
            ),
            (
                "Mint seeds",
                "Moroccan mint. Keep it in a pot or it will keep the garden.",
                280,
            ),
            (
                "Carrot seeds, rainbow",
                "White, yellow, orange and purple in one bag.",
                290,
            ),
            ("Pea seeds", "Sugar snap peas to eat straight from the plant.", 270),
            (
                "Marigold seeds",
                "Keeps the snails guessing and the tomatoes company.",
                230,
            ),
            ("Coriander seeds", "Slow to bolt, for leaves all summer.", 260),
            ("Beetroot seeds", "Round, deep red, stores until spring.", 250),
            (
                "Bean seeds, runner",
                "Scarlet flowers on a three-metre climber, then beans.",
                340,
            ),
            (
                "Sprouting mix",
                "Alfalfa, radish and broccoli for the jar on the sill.",
                490,
            ),
        ],
    ),
    (
        "pot",
        "pots",
        [
            ("Terracotta pot, small", "12 cm, with saucer, fired in Tuscany.", 690),
            ("Terracotta pot, large", "28 cm, with saucer, frost-proof.", 2_190),
            (
                "Glazed pot, sea green",
                "18 cm; every glaze runs a little differently.",
                2_490,
            ),
            (
                "Hanging pot, macramé",
                "A 14 cm ceramic bowl in a knotted cotton hanger.",
                2_890,
            ),
            (
                "Zinc planter",
                "60 cm long, drains well, turns matt with the years.",
                3_490,
            ),
            ("Self-watering pot", "16 cm with a reservoir for two weeks away.", 1_990),
            ("Bonsai tray", "Unglazed, 24 cm, with wire holes.", 2_690),
            (
                "Concrete cube",
                "15 cm, cast in one piece, felt feet underneath.",
                2_290,
            ),
            ("Window box", "80 cm of recycled plastic that looks like clay.", 1_890),
            ("Herb trough", "Three pots on one tray for the kitchen sill.", 2_390),
            (
                "Orchid pot, clear",
                "13 cm; the roots see the light as they should.",
                790,
            ),
            ("Basket, seagrass", "Holds pots up to 22 cm, lined inside.", 1_790),
            ("Wall planter", "Half-round, white, with a hidden drip tray.", 1_590),
            ("Mini pots, set of six", "6 cm each, for cuttings and cacti.", 1_490),
            ("Glass terrarium", "Brass frame, opens at the side, 20 cm.", 3_990),
            ("Propagation station", "Five test tubes in oiled oak.", 2_590),
            (
                "Grow bag",
                "30 litres of breathing felt for potatoes and tomatoes.",
                990,
            ),
        ],
    ),
    (
        "tool",
        "tools",
        [
            ("Hand trowel", "Forged steel with an ash handle, for life.", 1_890),
            (
                "Secateurs",
                "Bypass blades up to 20 mm, every part can be replaced.",
                3_990,
            ),
            (
                "Watering can, copper",
                "1.5 litres, with a rose as fine as rain.",
                4_490,
            ),
            (
                "Watering can, steel",
                "9 litres, galvanised, balanced when full.",
                3_290,
            ),
            (
                "Gardening gloves",
                "Goatskin palms, machine washable, sizes S to XL.",
                1_990,
            ),
            ("Plant mister", "Amber glass, 300 ml, with a brass pump.", 1_690),
            ("Bonsai scissors", "Hand-forged carbon steel, 18 cm.", 3_490),
            ("Garden twine", "200 m of natural jute in a tin with a cutter.", 890),
            ("Dibber", "Beech with depth marks and a steel tip.", 1_290),
            ("Soil scoop", "Holds a litre, pours from both sides.", 1_390),
            ("Plant labels, slate", "Ten labels and a chalk pencil.", 990),
            (
                "Moisture meter",
                "Works without batteries; dry, fine or wet at a glance.",
                1_190,
            ),
            ("Root knife", "For dividing perennials and cutting turf.", 2_790),
            ("Kneeling pad", "Thick cork that dries by the evening.", 1_790),
            ("Hand fork", "Three forged tines, fits the hand trowel.", 1_890),
            ("Leaf rake", "Twenty-two bamboo tines on an ash pole.", 2_490),
            ("Potting tray", "Keeps the soil on the table and off the floor.", 2_290),
        ],
    ),
    (
        "tea",
        "tea",
        [
            (
                "Assam, second flush",
                "Malty and strong, takes milk. 100 g of loose leaves.",
                890,
            ),
            (
                "Darjeeling, first flush",
                "Flowery and light, picked in March. 100 g.",
                1_490,
            ),
            ("Earl Grey", "Black tea with real bergamot oil. 100 g.", 790),
            ("Sencha", "Japanese green tea, fresh and grassy. 100 g.", 1_190),
            (
                "Matcha, ceremonial",
                "Stone-ground and bright green. 30 g in a tin.",
                2_490,
            ),
            (
                "Jasmine pearls",
                "Green tea rolled by hand and scented seven nights. 75 g.",
                1_690,
            ),
            ("Genmaicha", "Green tea with roasted rice. 100 g.", 990),
            (
                "Oolong, Tie Guan Yin",
                "Half-oxidised; seven infusions from one pot. 75 g.",
                1_590,
            ),
            ("White peony", "Buds and young leaves, barely touched. 50 g.", 1_390),
            ("Pu-erh cake", "Aged eight years, deep and earthy. 200 g.", 2_990),
            ("Rooibos, vanilla", "From the Cederberg, no caffeine. 100 g.", 690),
            ("Peppermint leaves", "Cut whole, from the Franconian fields. 75 g.", 590),
            ("Chamomile flowers", "Whole flowers, sun-dried. 50 g.", 590),
            ("Ginger and lemon", "A warming infusion without tea. 100 g.", 650),
            (
                "Chai spices",
                "Cinnamon, cardamom, clove, pepper and black tea. 100 g.",
                850,
            ),
            (
                "Lapsang souchong",
                "Smoked over pine. People love it or leave the room. 100 g.",
                1_090,
            ),
            ("Tea sampler", "Twelve teas in small tins, two pots of each.", 2_490),
        ],
    ),
    (
        "book",
        "books",
        [
            (
                "The Patient Gardener",
                "A year in twelve chapters for people with one balcony.",
                2_200,
            ),
            (
                "Figs and Their Wasps",
                "The oldest bargain between a tree and an insect.",
                2_800,
            ),
            ("Houseplants for the Hopeless", "Fifty plants that survive you.", 1_800),
            (
                "The Seed Saver's Handbook",
                "How to harvest, dry and keep your own seeds.",
                2_400,
            ),
            (
                "A Short History of Tea",
                "From the emperor's cup to the tea bag.",
                1_600,
            ),
            (
                "Bonsai from the Beginning",
                "The first five years, step by step.",
                2_900,
            ),
            ("Soil", "What goes on under your feet, and why it matters.", 1_400),
            ("The Banyan Tree", "Stories from the shade of a single tree.", 1_900),
            (
                "Cooking from the Window Box",
                "Sixty recipes that begin on the sill.",
                2_300,
            ),
            (
                "Pruning without Fear",
                "Where to cut, when, and what happens then.",
                1_700,
            ),
            ("Moss", "A picture book of the smallest forests.", 3_200),
            (
                "The Compost Question",
                "Everything rots if you let it. A cheerful guide.",
                1_500,
            ),
            (
                "Night-Scented",
                "Plants for those who only come home after dark.",
                2_100,
            ),
            (
                "Field Notes, blank",
                "Squared paper, waterproof cover, fits a pocket.",
                1_200,
            ),
            (
                "Wild Teas",
                "Forty leaves and flowers from the edge of the path.",
                1_900,
            ),
            ("The Greenhouse", "Build one in a weekend from old windows.", 2_600),
            ("Botanical Colouring Book", "Thirty plates after old engravings.", 1_300),
        ],
    ),
    (
        "kitchen",
        "kitchen",
        [
            (
                "Teapot, cast iron",
                "0.8 litres, enamelled inside, with a steel strainer.",
                5_490,
            ),
            ("Teapot, glass", "1.2 litres; watch the pearls unfold.", 3_490),
            (
                "Mug, hand-thrown",
                "Stoneware, 350 ml, each one slightly different.",
                1_990,
            ),
            ("Tea cups, pair", "Double-walled glass, 200 ml each.", 2_290),
            ("Matcha whisk", "Cut from one piece of bamboo, a hundred prongs.", 1_890),
            ("Matcha bowl", "Raku glaze, fits both hands.", 3_990),
            ("Tea strainer", "Fine steel mesh with a drip bowl.", 1_190),
            ("Tea tin", "Airtight, holds 150 g, lined with Japanese paper.", 1_490),
            ("Gooseneck kettle", "1 litre, with a thermometer in the lid.", 4_990),
            ("Herb scissors", "Five pairs of blades and a cleaning comb.", 1_690),
            (
                "Mortar and pestle",
                "Granite, 14 cm, two and a half kilos of patience.",
                2_990,
            ),
            ("Sprouting jar", "1 litre with a steel sieve lid and a stand.", 1_390),
            ("Fermenting crock", "5 litres with a water seal and weights.", 5_990),
            ("Olive wood board", "35 cm, no two with the same grain.", 3_290),
            ("Linen tea towels, three", "Washed soft, woven in Upper Lusatia.", 2_790),
            ("Honey dipper", "Turned from pear wood, with a little dish.", 990),
            (
                "Pickling jars, set of four",
                "0.5 litres each, with rubber rings and clips.",
                1_890,
            ),
        ],
    ),
];
