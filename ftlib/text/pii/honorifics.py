"""Recognizers for people by honorific or sign-off in scripts without capitals: Chinese, Japanese, Korean and Arabic.

A Chinese or Korean name begins with a family name, of which few are in use. A noun before an honorific (`お客様`,
`고객님`, `先生` alone) is no name.
"""

import re

from ftlib.text.pii.rules import Rule

_HAN = r"[\u4e00-\u9fff]"
_PLAIN_CHINESE = (
    "王李张張刘劉陈陳杨楊赵趙吴吳周徐孙孫朱胡郭林罗羅郑鄭梁谢謝宋唐许許韩韓冯馮邓鄧曹彭曾肖萧田董袁潘蒋蔣蔡余杜叶"
    "葉程苏蘇魏吕呂丁沈"
    "姚卢盧姜崔钟鐘谭譚陆陸汪范廖石贾賈韦韋傅邹鄒邱侯孟薛阎閻雷龙龍陶贺賀顾顧毛郝龚龔邵钱錢严嚴戴莫孔汤湯"
)
_ALSO_WORDS = "高何方马馬黄黃金江白文安于易关關常车任万萬尹史黎武乔喬赖賴"
_CHINESE = (
    rf"(?:[{_PLAIN_CHINESE}]|欧阳|歐陽|司马|司馬|诸葛|上官|"
    rf"(?:(?<!{_HAN})|(?<=[是给給请請问找和与跟向由的叫]))[{_ALSO_WORDS}])"
)
_JAPANESE = (
    "佐藤|鈴木|高橋|田中|伊藤|渡辺|渡邊|山本|中村|小林|加藤|吉田|山田|佐々木|山口|松本|井上|木村|斎藤|斉藤|清水|"
    "山崎|阿部|森田|池田|橋本|石川|"
    "山下|中島|前田|藤田|小川|後藤|岡田|長谷川|村上|近藤|石井|坂本|遠藤|青木|藤井|西村|福田|太田|三浦|藤原|岡本|"
    "松田|中川|中野|原田|小野|"
    "竹内|金子|和田|中山|石田|上田|河野|柴田|酒井|宮崎|横山|宮本|内田|高木|安藤|谷口|大野|丸山|今井|高田|河合|"
    "武田|上野|杉山|増田|小島|"
    "千葉|久保|松井|岩崎|木下|野口|松尾|菊地|菊池|野村|新井|渡部|桜井|佐野|大塚|平野|土屋|古屋|市川|服部|樋口|"
    "水野|小山|川口|大西|島田"
)
_KANA_NAME = r"[\u30a1-\u30f6ー]{2,10}(?:[・ ][\u30a1-\u30f6ー]{2,10}){0,2}"
_NO_JAPANESE = re.compile(
    r".*[様殿].*|.*(?:[者員業社客店校園局庁模仕同多異宮神御手]|[^信]長|先生|各位|医師|教師|講師|講|看護師|取引先|"
    r"得意先|一同|家族|両親|個人|本人|友人|法人|"
    r"老人|夫人|主人|大家|本屋|[^土古守関]屋|殿下|陛下|貴方|関係|会員|弁護士|税理士|護士|理士|兄|姉|弟|妹|娘|"
    r"息子|子供|生徒|学生|警官|神主|坊主|相手)"
    r"|(?:お|ご).*|ユーザー?|オーナー|パートナー|メーカー|スタッフ|ドライバー|ゲスト|メンバー|ファン|リスナー|"
    r"コーチ|マネージャー|ベンダー|"
    r"サポーター|クライアント|サポート|モデル|アイドル|タレント|ママ|パパ|オペレーター|デザイナー|エンジニア|"
    r"ホスト|リーダー|プレイヤー"
)
_KOREAN = (
    "김이박최정강조윤장임한오서신권황안송류유홍전고문양손배백허남심노하곽성차주우구민진지엄채원"
    "천방공현함변염여추도소석선설마길연위표명기반왕금옥육인맹제모"
)
_KOREAN_ALONE = "김박최정강조윤장임오서신권황송류홍문손배백허남심곽"
_NO_KOREAN = re.compile(
    r"고객|선생|주인|이용자|진행자|제작자|방문자|신청자|구매자|사용자|주문자|소비자|신자|연구원|상담원|안내원|"
    r"회원|공주|형|기자|신부|이모|고모|조카|"
    r"임금|장모|장인|반장|도련|하나|하느|유저|고객사|전무|상무|차장|주임|이사|조교|인턴|여왕|왕자|왕비|마음|이웃|"
    r"손|노인|지인|주민|이분|전문가|"
    r"선배|후배|지휘자|연출자|기획자|운영자|관리자|담당자|우리|여러|부모|조상|서방|오라버|성도|집사|전도|선수|"
    r"심판|유가족|고인|현자|제자|천사|"
    r"(?:제공|전달|안내|추천|소개|기원|문의|연락|지원)해|(?:..?)(?:장|사|객|모)"
)
_NO_ARABIC = (
    r"(?:ال)?(?:عميل|زبون|مدير|رئيس|وزير|مستخدم|قارئ|فاضل|مشترك|محترم|سادة|سيدات|سيد|سيدة|طالب|موظف|زائر|"
    r"عضو|مواطن|مريض|سفير|"
    r"محافظ|نائب|قاضي|محامي|أمين|مسؤول|مشاهد|مستمع|متابع|ضيف|صديق|أخ|أب|أم|دكتور|دكتورة|أستاذ|أستاذة|"
    r"مهندس)(?:ة|ون|ين|ات|نا|ي)?"
)
_NO_SECOND = (
    r"قال|قالت|هو|هي|في|من|على|إلى|الى|الذي|التي|كان|كانت|إن|أن|عن|مع|تحية|يرجى|وصل|جاء|جاءت|لم|لن|لا|قد|"
    r"هذا|هذه|ذلك|بعد|قبل|"
    r"عند|ثم|أو|كما|حيث|يوم|منذ|حتى|بأن|لأن|السلام|أرجو|نود|شكرا|رئيس|مدير|وزير"
)


def _japanese(value: str) -> bool:
    return _NO_JAPANESE.fullmatch(value) is None


def _korean(value: str) -> bool:
    return _NO_KOREAN.fullmatch(value) is None


def _line(name: str) -> str:
    """A line that holds a name alone."""
    return rf"[ \t]{{0,20}}(?P<v>{name})[ \t]{{0,20}}(?=\n|$)"


def _chinese_rules() -> list[Rule]:
    full = rf"{_CHINESE}{_HAN}{{1,2}}"
    not_words = (
        r"(?!许多|許多|关于|關於|高级|高中|高等|高管|方面|白人|黄色|金融|文学|万名|石油|程序|钱包|严重|雷达|田径|林业)"
    )
    mister = r"(?=[ ]?(?:先生|女士|小姐|太太|夫人))"
    office = r"(?=(?:老师|老師|教授|医生|醫生|大夫|经理|經理|律师|律師|同学|师傅|主任|博士|护士))"
    return [
        Rule("PERSON", re.compile(rf"{not_words}(?P<v>{_CHINESE}{_HAN}{{0,2}}?){mister}"), 0.75),
        Rule("PERSON", re.compile(rf"{not_words}(?P<v>{_CHINESE}){office}"), 0.7),
        Rule(
            "PERSON",
            re.compile(rf"(?:尊敬的|亲爱的|親愛的|敬爱的)[ ]?{not_words}(?P<v>{full})(?=[ ]?[:：,，!！\n])"),
            0.75,
        ),
        Rule("PERSON", re.compile(rf"(?P<v>{full})[ ]?(?:敬上|谨上|謹上|敬启|敬啟|顿首|拜上)"), 0.75),
        Rule(
            "PERSON", re.compile(rf"(?:此致|敬礼|敬禮|商祺|谢谢|謝謝)[!！。,，]?[ ]?\n[ \n]{{0,8}}{_line(full)}"), 0.7
        ),
    ]


def _japanese_rules() -> list[Rule]:
    known = rf"(?:{_JAPANESE})(?:[ ]?[\u3041-\u3096\u4e00-\u9fff々]{{1,3}}?)?"
    any_name = r"(?<![\u4e00-\u9fff々\u3005])[\u4e00-\u9fff々]{2,4}(?:[ ][\u4e00-\u9fff]{1,3})?"
    polite = r"(?=[ ]?(?:様|さま|さん|氏(?!名)|殿))"
    signed = rf"(?:{_JAPANESE})(?:[ ]?[\u3041-\u30ff\u4e00-\u9fff々]{{1,5}})?"
    return [
        Rule(
            "PERSON",
            re.compile(rf"(?P<v>{known})(?=[ ]?(?:様|さま|さん|氏(?!名)|殿|君|ちゃん|先生|部長|課長|社長))"),
            0.75,
        ),
        Rule("PERSON", re.compile(rf"(?P<v>{any_name}){polite}"), 0.65, accept=_japanese),
        Rule("PERSON", re.compile(rf"(?<![\u30a1-\u30ff])(?P<v>{_KANA_NAME}){polite}"), 0.65, accept=_japanese),
        Rule(
            "PERSON",
            re.compile(
                rf"(?:敬具|草々|かしこ|(?:お願い|御礼)[^\n。]{{0,12}}ます|ございます)。?[ ]?"
                rf"\n[ \n]{{0,8}}{_line(signed)}"
            ),
            0.7,
        ),
    ]


def _korean_rules() -> list[Rule]:
    full = rf"(?<![가-힣])[{_KOREAN}][가-힣]{{1,2}}"
    office = "선생님|과장님|대리님|부장님|차장님|팀장님|사장님|교수님|박사님|이사님|원장님|기사님|의사|변호사|환자"
    return [
        Rule(
            "PERSON",
            re.compile(rf"(?P<v>{full})(?=[ ]?(?:님|귀하|귀중|{office}|씨(?![앗줄름족])))"),
            0.75,
            accept=_korean,
        ),
        Rule(
            "PERSON",
            re.compile(rf"(?<![가-힣])(?P<v>[{_KOREAN_ALONE}])(?=[ ]?씨(?:[는은가의를에께도와로]|[^가-힣]|$))"),
            0.65,
        ),
        Rule(
            "PERSON",
            re.compile(rf"(?m)^[ \t]{{0,20}}(?P<v>{full})[ ]?(?:드림|올림|배상)[ \t]{{0,20}}$"),
            0.75,
            accept=_korean,
        ),
        Rule(
            "PERSON",
            re.compile(rf"(?:감사합니다|고맙습니다|부탁드립니다)[.!]?[ ]?\n[ \n]{{0,8}}{_line(full)}"),
            0.65,
            accept=_korean,
        ),
    ]


def _arabic_rules() -> list[Rule]:
    word = r"[\u0621-\u064a]{2,12}"
    more = rf"(?:[ ](?!(?:{_NO_SECOND}|{_NO_ARABIC})(?![\u0621-\u064a])){word}){{0,2}}"
    some = rf"(?P<v>(?!(?:{_NO_ARABIC}|{_NO_SECOND})(?![\u0621-\u064a])){word}{more})"
    before = r"(?<![\u0621-\u064a])[ولبف]?"
    title = r"(?:(?:ال|لل)(?:سيدة?|أستاذة?|استاذة?|دكتورة?|مهندسة?|آنسة|شيخ))"
    return [
        Rule("PERSON", re.compile(rf"{before}{title}(?:[ ]ال(?:دكتورة?|مهندسة?|فاضلة?))?[ ]/?[ ]?{some}"), 0.75),
        Rule("PERSON", re.compile(rf"{before}(?:عزيزي|عزيزتي|مرحبا|أهلا)[ ](?!ال){some}(?=[ ]?[،,:!.\n]|$)"), 0.7),
        Rule(
            "PERSON",
            re.compile(
                rf"(?:التحيات|التحية|تحياتي|الاحترام|التقدير|شكرا)[،,.]?[ ]?\n[ \n]{{0,8}}(?!ال){some}[ ]?(?=\n|$)"
            ),
            0.7,
        ),
    ]


def honorific_rules() -> list[Rule]:
    """A person beside an honorific, or alone behind a sign-off."""
    return [*_chinese_rules(), *_japanese_rules(), *_korean_rules(), *_arabic_rules()]
