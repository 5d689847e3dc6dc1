"""Frequent words of languages other than English, by ISO 639 code. Languages with a script of their own need none."""

from __future__ import annotations

_LISTS = {
    "af": "die en van het nie is 'n dat vir op met ons hulle sy aan was wat ek jy maar ook hy kan by uit word deur "
    "baie",
    "az": "və bir bu ilə üçün da də olan onun çox ki mən sən biz deyil var hər kimi sonra isə o sizə kömək",
    "bs": "je i u na se da za su od nije ali što kako koji koja ili sam bio vam mi on ona to smo pod kad nego",
    "ca": "el la els les de del i un una que per amb és no al en però més com us jo hi ha són dels és molt quan",
    "ceb": "ang sa nga mga og ni kini usa kay dili ako siya imong atong kanila para adunay wala sila",
    "cs": "a je v na se že si to do ve pro po jsem jako ale nebo jsou být za od při co tak byl má která není aby až",
    "cy": "y yr yn a i o ei mae ac ar am gan wedi oedd ond fel hyn dim chi fy ni mewn eu bod gyda un",
    "da": "og i at det er en den til på for af med som ikke der var de jeg et har vi men kan ikke om eller fra blev",
    "de": "der die das und ist nicht ein eine zu den mit sie ich es auf für von dem im wie kann sich auch aus bei nach "
    "wird des sind oder wenn noch aber wir einen einer war nur man vor zum zur dass haben werden",
    "eo": "la de kaj en estas mi ne vi ke por al li estis kun oni sed sur ĝi pri kiu por ĉu tiu kiel post ili",
    "es": "el la los las de que y en un una es por con para no se lo del al como más pero sus su le ya o este sí "
    "porque "
    "muy sin sobre me hay está son cada",
    "et": "on ja ei et see ta kui oli ma me aga ka nii siis mis kes pole või oma ning välja üks sa meie kuid",
    "eu": "eta da ez bat du dut hau zen dira egin nik zuen baina izan oso ere dute gure bere edo zure nire duen",
    "fi": "on ja ei se että oli hän en mutta ovat kun niin tai kuin jos sen joka ole mitä minä sinä me ne voi "
    "sitten myös kaikki hyvin tunnin",
    "fil": "ang ng sa mga na ay ko ka at hindi ito po si ni kung para siya may nang kami natin ako namin kanilang",
    "fr": "le la les de des du et un une est que qui en dans pour pas vous je ne il au sur avec ce se plus par on sont "
    "mais nous elle votre être ou si cette ces son sa ses aux leur à",
    "ga": "an na agus ar is tá bhí sé go ag le ach mé ní do ina sí i ó seo sin faoi níl an-",
    "gd": "an na agus air a' tha bha gu ann is mi thu e i nach ach aig le bho seo sin chan",
    "gl": "o a os as de e en que un unha non é do da no na por con para se ao máis pero como eu está son moi",
    "ha": "da ta na ya a cikin don ba ne ce wannan shi su mu ina yana suna kuma amma wani bayan zuwa",
    "haw": "ka ke o i a he me ua no na nā ma e aia ʻo au kēia",
    "hr": "je i u na se da za su od nije ali što kako koji koja ili sam bio vam nas mi on ona to smo iz do uz kao oko",
    "ht": "nan yo ak li pou ki se te pa mwen yon sa gen nou ou m tout pral",
    "hu": "a az és nem egy hogy van meg ez is ha de el csak volt mint már még vagy ki nekem minden majd kell be olyan "
    "sem ezt azt",
    "id": "yang dan di untuk dengan adalah ini itu tidak dari ke pada akan saya kami anda atau oleh juga ada bisa "
    "karena "
    "mereka kita dalam sebuah setiap lalu sudah lebih",
    "ig": "na nke ya ka bụ ndị n'ime ọ m ị onye maka anyị ahụ nwere",
    "is": "og að er í á ekki það sem við en til ég um var með hún hann af þú eru fyrir þegar frá hefur eða ég",
    "it": "il di che è la e in un per non sono della del una con alla gli le dei si ma come più anche lo ha nel al da "
    "questo mi i delle dal se",
    "jv": "ing lan kang sing iku iki ora ana dadi saka karo aku kowe menyang wis bakal uga",
    "la": "et in est non ad ut cum sed ex quod qui per si de sunt esse quae hoc aut enim nec ab atque omnia eum",
    "lb": "an d' de et ass dat net en ech mat vun op fir si an eng mir och ze huet ginn sinn gëtt",
    "lt": "ir yra į kad su iš ne tai kaip bet buvo per apie jis ji mes po ar už prie mano labai savo dar kai",
    "lv": "un ir ar no ka uz par bet nav kas es tas viņš kā vai pie bija pēc mēs lai ļoti jau savu",
    "mg": "ny sy dia ho an'ny amin'ny tsy izy aho fa no misy ary izay",
    "mi": "te ngā o ki he i ka me e kua ko nei tēnei ahau tātou mō ai",
    "ms": "yang dan di untuk dengan adalah ini itu tidak daripada ke pada akan saya kami anda atau oleh juga ada boleh "
    "kerana mereka kita dalam sebuah",
    "mt": "il li u ta' hija huwa minn fuq ma' dan din għal kif jew mhux kien f' b' kienet",
    "nl": "de het een en van is niet met zijn voor dat ik op te in die er aan hij wij maar ook als naar om uit bij "
    "wordt kan je zij heeft was nog door over deze hebben geen tot",
    "no": "og i å det er en den til på for av med som ikke der var de jeg et har vi men kan om eller fra ble så ei hun",
    "oc": "lo la los las de e que un una es per amb dins pas del sus son mai",
    "pl": "i w na się z nie jest do to że jak o dla po od ale przez są jego tak co lub był ma być może jej za gdy "
    "bardzo już tylko które który czy więc",
    "pt": "o a os as de que e um uma do da em para com não se por no na mais como mas ao dos das é foi seu sua eu ele "
    "você isso está são pelo muito também ou depois",
    "qu": "kay chay mana wan ñuqa huk kani kanku chaymi chayqa ñan",
    "ro": "și de la în a o un nu cu pe este care sau din ce să se mai pentru ca au dar sunt fi prin după am fost lui",
    "rw": "mu na ku ni ko kandi cyane abantu cya ya iyo uko bya",
    "sk": "a je v na sa že to do vo pre po som ako ale alebo sú byť za od pri čo tak bol má ktorá nie aby až keď",
    "sl": "je in v na se da za so ne pa ki z od kot ali tudi sem bil po pri kako samo ko še ga jo smo do",
    "sm": "o le ma i lea e sa ua mo te tatou",
    "so": "iyo waa in ka ku ay oo uu waxaa la si aan kale waxa lagu",
    "sq": "të e në dhe një për i nuk me është që nga si u do ka më kam por kjo ky shumë duke janë",
    "sr": "je i u na se da za su od nije ali što kako koji koja ili sam bio vam nas mi on ona to smo iz do kao",
    "su": "anu jeung di ka nu ieu teu aya keur abdi mah téh",
    "sv": "och i att det som en på är av för med den till inte om ett har jag var men de vi kan så eller från han "
    "hon "
    "när man ut upp sig hade mycket där",
    "sw": "ya wa na kwa ni katika za la kama cha hii yake kuwa lakini hiyo sana watu si hapa mimi yangu huyo baada "
    "kila "
    "kabla wetu vya yetu kwenye",
    "tr": "ve bir bu için ile ne çok da de daha gibi olarak ama her olan sonra kadar en ben sen biz o değil mi var ki "
    "ya en şey önce",
    "uz": "va bu bir bilan uchun ham men sen biz emas bor har kabi keyin lekin juda edi uning",
    "vi": "và là của một không được cho các có trong với những để này người khi đã tôi bạn cũng như từ ở thì về ra",
    "xh": "kwaye ukuba nge kunye kodwa okanye kakhulu umntu ngokuba kuba abantu",
    "yo": "ni ti àti sí fún mo ó wọ́n kò tí ṣe pé náà jẹ́ wa",
    "zu": "futhi ukuthi uma noma kodwa kakhulu kanye abantu ngoba ukuze wami",
    "ru": "и в не на я что с по как это к из для вы или а то он но от у за мы все так его её при если были было бы",
    "uk": "і в не на що з та до як це я у за від по для але він вона ми є про або так його її чи бути був",
    "bg": "и в не на се да от за с е са по но до че това как или ще той ние при които като има си",
    "mk": "и во не на се да од за со е ги по но до дека ова како или ќе тој ние при кои има си",
    "be": "і ў не на што з да як гэта я у за ад па для але ён яна мы ёсць",
    "kk": "және бір бұл мен да де үшін емес бар деп осы болып ол біз",
    "mn": "нь бол ба энэ байна юм гэж тэр би",
    "el": "και το να η ο της του στο με για την τα είναι δεν που από",
}

LANGUAGES: dict[str, frozenset[str]] = {code: frozenset(words.split()) for code, words in _LISTS.items()}
