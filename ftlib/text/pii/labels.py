"""Words that announce a personal value, in languages beside English: German, French, Spanish, Italian, Dutch,
Portuguese, Polish, Chinese, Japanese, Korean, Russian, Arabic, and some of their neighbours.

Every entry is an alternation of nouns in small letters; accents may be missing in texts, and words such as `number` may
follow. Languages are not told apart: a text often holds another language's form.
"""

from ftlib.text.pii.months import with_loose_accents

_FOREIGN = {
    "MEDICAL_RECORD_NUMBER": (
        r"(?:patienten|fall|aufnahme)(?=[\s_-]?n)|kranken(?:akte|blatt)|dossier (?:patient|médical)|"
        r"numéro de dossier|historia clínica|"
        r"cartella clinica|patiënt|prontuário|processo clínico|numer pacjenta|病历号?|病歷號?|住院号|就诊号|"
        r"診察券|カルテ|患者番号|患者id|등록번호|환자\s?번호|차트\s?번호|номер (?:карты|истории болезни)|"
        r"رقم (?:المريض|الملف)"
    ),
    "INSURANCE_ID": (
        r"versicherten|versicherungs(?:schein)?|policen?(?=[\s_-]?n)|krankenkassen|assurance(?: maladie)?|póliza|"
        r"seguro|polizza|"
        r"assicurazione|tessera sanitaria|polis|verzekering(?:s)?|apólice|polisa|polisy|ubezpieczenia|保险单?|保單|"
        r"医保|"
        r"保険証|被保険者|보험|полис|омс|дмс|التأمين|وثيقة التأمين"
    ),
    "ACCOUNT_NUMBER": (
        r"konto|kontonummer|bankleitzahl|blz|kunden(?:konto)|compte(?: bancaire)?|rib|cuenta(?: bancaria)?|clabe|"
        r"conto(?: corrente)?|rekening|conta(?: corrente| bancária)?|agência|nib|konta|rachunku|rachunek|"
        r"银行账[号户]|账号|帐号|賬號|银行卡|口座|계좌|р/с|расч[её]тный сч[её]т|сч[её]т|бик|حساب|الحساب"
    ),
    "CREDIT_CARD": (
        r"kreditkarten?|karten|carte(?: bancaire| de crédit| bleue)?|tarjeta(?: de crédito)?|carta di credito|"
        r"creditcard|cartão(?: de crédito)?|karty|信用卡|卡号|カード|クレジットカード|카드|карт[аы]|بطاقة"
    ),
    "EMPLOYEE_ID": (
        r"personal(?=[\s_-]?n)|mitarbeiter|matricule|matrícula|empleado|matricola|dipendente|personeels|medewerker|"
        r"funcionário|pracownika|工号|员工|員工|社員|従業員|사번|사원|직원|табельный|сотрудника|الموظف"
    ),
    "CASE_NUMBER": (
        r"aktenzeichen|az\.|geschäftszeichen|dossier|expediente|pratica|zaak|processo|sprawy|案号|案件|事件|사건|"
        r"дел[оа]|القضية"
    ),
    "DRIVER_LICENSE": (
        r"führerschein|permis(?: de conduire)?|permiso de conducir|licencia de conducir|carnet de conducir|"
        r"rijbewijs|carta de condução|cnh|prawo jazdy|prawa jazdy|驾驶证|駕照|驾照|運転免許証?|운전면허|"
        r"водительск(?:ое|ого) удостоверени[ея]|رخصة القيادة"
    ),
    "PASSPORT": (
        r"reisepass|pass(?=[\s_-]?n(?:umm|r))|passeport|pasaporte|passaporto|paspoort|passaporte|paszport(?:u)?|"
        r"护照|護照|"
        r"旅券|パスポート|여권|(?:загран)?паспорт[а]?(?:\sсерия)?|جواز(?: السفر)?"
    ),
    "LICENSE_PLATE": (
        r"kennzeichen|nummernschild|immatriculation|plaque|matrícula|placa|targa|kenteken|tablica|车牌|車牌|ナンバー|"
        r"차량번호|госномер|لوحة"
    ),
    "TAX_ID": (
        r"steuer(?:[\s_-]?id(?:entifikations)?)?|ust[\s.-]?id(?:nr)?|umsatzsteuer|(?:numéro|código|identificación|"
        r"número) fiscal|siret|siren|tva|"
        r"nif|cif|partita iva|p\.?\s?iva|codice fiscale|btw|rsin|nip|iva|税号|税號|纳税人识别|法人番号|사업자등록|"
        r"инн|кпп|огрн|"
        r"الرقم الضريبي|الضريبي"
    ),
    "NATIONAL_ID": (
        r"personalausweis|ausweis|sozialversicherungs|rentenversicherungs|ahv|steuer-id|"
        r"carte (?:nationale )?d'identité|"
        r"cni|sécurité sociale|nir|insee|numéro de sécu|avs|niss|documento de identidad|cédula(?: de identidad)?|"
        r"seguridad social|nss|curp|rut|cuit|cuil|carta d'identità|identiteitskaart|burgerservice|sofi|"
        r"bilhete de identidade|cartão de cidadão|identidade|dowód(?: osobisty)?|dowodu(?: osobistego)?|pesel|"
        r"身份证|身分證|身份證|居民身份证|証件|证件|マイナンバー|個人番号|在留カード|주민등록|주민번호|외국인등록|"
        r"снилс|удостоверени[ея] личности|иин|رقم الهوية|الهوية|الرقم القومي|personnummer|person-?nr|cpr|fødselsnummer|"
        r"fodselsnummer|henkilötunnus|hetu|rodné číslo|kimlik|cnp|egn|егн|ahv|oib|emšo|jmbg|pps|ppsn|nino|hkid|mykad"
    ),
    "DEVICE_ID": (
        r"seriennummer|geräte|numéro de série|número de serie|número de série|numer seryjny|序列号|製造番号|시리얼|"
        r"серийный"
    ),
    "ID_NUMBER": (
        r"kunden|bestell(?:ung)?s?|auftrags?|rechnungs?|vorgangs?|ticket|buchungs?|mitglieds?|vertrags?|sendungs?|"
        r"matrikel|"
        r"client|commande|facture|réservation|contrat|adhérent|étudiant|cliente|pedido|factura|reserva|contrato|socio|"
        r"ordine|fattura|prenotazione|contratto|klant|bestelling|factuur|boeking|contract|lidmaatschap|encomenda|"
        r"fatura|"
        r"sócio|klienta|zamówieni[ae]|faktury|rezerwacji|umowy|客户|客戶|订单|訂單|发票|预订|合同|会员|学号|注文|"
        r"顧客|会員|"
        r"予約|請求書|学籍|주문|고객|예약|회원|학번|заказ[а]?|клиента|договор[а]?|брони|счет-фактур[аы]|الطلب|"
        r"العميل|الفاتورة|الحجز"
    ),
}  # fmt: skip
NUMBER_LABELS = {entity: with_loose_accents(words) for entity, words in _FOREIGN.items()}
NUMBER_WORD = with_loose_accents(
    r"(?:[\s_.-]{0,2}(?:nummer|nr\b\.?|núm(?:ero)?\b\.?|numéro|numer|n[°ºo]\b\.?|номер|№|号码|號碼|番号|번호|号|號|"
    r"رقم|kennung|"
    r"code|kod|id|s(?=[\s_-]?nummer)))"
)
IS = with_loose_accents(
    r"(?:\s?(?::|=>|=|\#|\(|-|\b(?:ist|lautet|est|es|è|is|é|jest|to|wynosi|var|är|er|on)\b|是|为|為|は|が|은|는|이|가|"
    r"هو|هي)\s?[:：]?\s?)"
)
PASSWORD_LABELS = with_loose_accents(
    r"kennwort|passwort|zugangscode|mot de passe|mdp|contraseña|clave(?: de acceso)?|parola(?: d'ordine)?|"
    r"wachtwoord|senha|"
    r"palavra-?passe|hasło|hasła|lösenord|adgangskode|passord|salasana|heslo|şifre|jelszó|密码|密碼|口令|パスワード|"
    r"暗証番号|비밀번호|암호|패스워드|пароль|كلمة (?:المرور|السر)|κωδικός|סיסמה|รหัสผ่าน|mật khẩu"
)
USER_LABELS = with_loose_accents(
    r"benutzer(?:name|kennung)?|anmeldename|nutzername|nom d'utilisateur|identifiant|utilisateur|nombre de usuario|"
    r"usuario|nome utente|utente|gebruikersnaam|gebruiker|nome de usuário|usuário|utilizador|nazwa użytkownika|"
    r"użytkownik|"
    r"användarnamn|brugernavn|brukernavn|käyttäjätunnus|uživatelské jméno|用户名|用戶名|账户名|登录名|ユーザー?名|"
    r"ログインid|"
    r"사용자\s?(?:이름|명)|아이디|имя пользователя|логин|пользователь|اسم المستخدم"
)
PHONE_LABELS = with_loose_accents(
    r"telefon(?:nummer)?|tel|handy(?:nummer)?|mobil(?:nummer|telefon)?|rufnummer|festnetz|téléphone|tél|"
    r"teléfono|móvil|celular|telefono|cellulare|telefoon(?:nummer)?|mobiel|gsm|telefone|telemóvel|telefonu?|komórka|"
    r"puhelin|电话|電話|手机号?码?|手機|携帯|連絡先|联系方式|전화(?:번호)?|휴대폰|핸드폰|연락처|телефон[а]?|тел|"
    r"моб(?:ильный)?|"
    r"هاتف|الهاتف|جوال|الجوال|موبايل|رقم الهاتف"
)
ADDRESS_LABELS = with_loose_accents(
    r"(?:wohn|liefer|rechnungs|privat)?(?:adresse|anschrift)|wohnort|domicile|dirección|domicilio|indirizzo|adres|"
    r"woonadres|"
    r"endereço|morada|zamieszkania|住址|地址|住所|주소|адрес|العنوان|عنوان"
)
NAME_LABELS = with_loose_accents(
    r"(?:vor|nach|familien|zu)name|name|inhaber|nom(?: de famille| complet)?|prénom|nombre(?: completo)?|apellidos?|"
    r"nome(?: completo)?|cognome|naam|voornaam|achternaam|sobrenome|apelido|imię(?: i nazwisko)?|imie|nazwisko|"
    r"patient(?:in)?|kund(?:e|in)|mitarbeiter(?:in)?|bearbeiter(?:in)?|ansprechpartner(?:in)?|absender|empfänger|"
    r"paciente|paziente|patiënt|pacjent(?:ka)?|titulaire|titular|intestatario|"
    r"имя|фамилия|отчество|фио|ф\.\s?и\.\s?о\.|клиент|пациент|сотрудник|получатель|отправитель|"
    r"姓名|名字|氏名|お名前|名前|联系人|收件人|收货人|患者|客户|担当者|이름|성명|성함|고객명?|환자명?|수취인|الاسم|"
    r"اسم|المريض|العميل"
)
BIRTH_LABELS = with_loose_accents(
    r"geb\.?(?:oren)?(?: am)?|geburts(?:datum|tag)|née?(?:\(e\))?(?: le)?|date de naissance|nacid[oa](?: el)?|"
    r"fecha de nacimiento|f\.\s?nac\.?|nat[oa](?: il)?|data di nascita|geboren(?: op)?|geboortedatum|"
    r"nascid[oa](?: em)?|"
    r"data de nascimento|ur\.|urodzon[ya]|data urodzenia|född|födelsedatum|født|fødselsdato|syntymäaika|syntynyt|"
    r"datum narození|nar\.|doğum tarihi|出生(?:日期|年月日)?|生日|生年月日|생년월일|생일|дата рождения|родил(?:ся|"
    r"ась)|г\.\s?р\.|"
    r"تاريخ الميلاد|مواليد"
)
