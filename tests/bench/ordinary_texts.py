"""300 ordinary texts of our own making that name no one and hold no secret: what redaction must leave alone."""

BULLETS = """
To reset it:|- Settings|- Privacy|- Battery Saver|- Restart
Shopping list:|- Milk|- Olive Oil|- Brown Bread|- Cherry Tomatoes
Languages that I know:|- Python|- Rust|- Go|- Kotlin
Agenda for the meeting:|- Welcome|- Budget|- Open Questions|- Next Steps
* Preheat the oven|* Mix flour and butter|* Bake for half an hour
1. Open the lid|2. Remove the filter|3. Rinse it under the tap
- Fast delivery|- Free returns|- Two years of warranty
Pros:|+ Light|+ Quiet|+ Cheap|Cons:|- Heavy Lid|- No App
Toppings:|- Red Onion|- Black Olives|- Blue Cheese
Checklist:|- Passport|- Sun Cream|- Charger|- Rain Jacket
Things to pack:|– Tent|– Sleeping Bag|– Camp Stove
Skills:|- Writing|- Public Speaking|- Project Management
Steps:|- Power Off|- Hold Volume Up|- Release
Colours on offer:|- Forest Green|- Sky Blue|- Stone Grey
Menu:|- Tomato Soup|- Grilled Fish|- Lemon Tart
To do:|- Water the plants|- Call the plumber|- Buy stamps
Our values:|- Trust|- Courage|- Care
Before you start:|- Save your work|- Close all windows|- Unplug the printer
Ingredients:|- Basmati Rice|- Coconut Milk|- Bay Leaf
Features:|- Dark Mode|- Offline Maps|- Voice Control
Parts in the box:|- Power Adapter|- Wall Mount|- Quick Start Guide
Chapters:|- Introduction|- Methods|- Results|- Discussion
Reasons:|- Cost|- Time|- Quality
Sizes:|- Small|- Medium|- Large|- Extra Large
Rules:|- Be kind|- Stay on topic|- No spam
"""
CODE = """
for i in range(10): print(i)
def add(a, b): return a + b
if (count > 0) { total += count; } else { total = 0; }
SELECT id, title FROM books WHERE price < 20 ORDER BY title;
git commit -m "Fix typo in the readme" && git push origin main
const sum = numbers.reduce((a, b) => a + b, 0);
import numpy as np; x = np.zeros((3, 4))
docker run --rm -it -p 8080:80 nginx:alpine
try: value = int(text) except ValueError: value = None
public static void main(String[] args) { System.out.println("Hello"); }
npm install --save-dev typescript eslint prettier
while True: line = file.readline(); if not line: break
<div class="card"><h2>Title</h2><p>Body</p></div>
kubectl get pods --namespace default
let total = 0; for (const item of items) total += item.price;
CREATE TABLE orders (id INT PRIMARY KEY, total DECIMAL(10, 2));
pip install --upgrade pip setuptools wheel
function greet(name) { return `Hello, ${name}!`; }
grep -rn "TODO" src | wc -l
x = sorted(words, key=len, reverse=True)[:10]
The function returns None when the list is empty.
Use await fetch(url) inside an async function.
The loop runs in O(n log n) time and O(1) space.
Set DEBUG=true in the environment before you start the server.
A NullPointerException at line 42 means that the object was never created.
"""
PATHS = """
Go to Settings > General > Language & Region and pick a language.
Click File > Save As... and choose a folder.
Open Control Panel > Network and Internet > Sharing Center.
In the menu choose View > Zoom > Actual Size.
Press Ctrl+Shift+Esc to open the Task Manager.
Tap Profile, then Notifications, then Mute All.
Select Insert > Table > Draw Table from the ribbon.
Under Display, turn on Night Light.
Choose Edit > Preferences > Keyboard Shortcuts.
Hold the Side button until the slider appears.
Open the Start menu and type Device Manager.
Swipe down to open Quick Settings and tap Airplane Mode.
In Outlook, choose Home > New Items > Meeting.
Right-click the Desktop and choose Personalize.
Tools > Options > Advanced > Reset to Defaults
Settings → Apps → Default Apps → Web Browser
Menu/Setup/Picture/Brightness
The button Add to Cart is below the price.
Open Finder, choose Applications, then Utilities.
Click on Forgot Password and follow the steps.
Drag the icon to the Trash and choose Empty Trash.
The Back button is in the upper left corner of the window.
Toggle Auto Save off before you close the tab.
Under Billing, choose Payment Methods and then Add New.
Use Window > Tile Left to split the screen.
"""
MEDICINES = """
Take Ibuprofen 400 mg three times a day with food.
Metformin 500 mg twice daily, Lisinopril 10 mg in the morning.
The patient was given Amoxicillin 875 mg for ten days.
Start Atorvastatin 20 mg at bedtime.
Paracetamol up to 4 g a day is safe for most adults.
Albuterol inhaler, two puffs as needed.
Omeprazole 20 mg before breakfast for four weeks.
Blood pressure was 120/80 mmHg, pulse 72, temperature 36.8 C.
Vitamin D3 1000 IU and Calcium 500 mg daily.
Allergies: penicillin, sulfa drugs, latex.
HbA1c 6.8 %, LDL 95 mg/dL, HDL 52 mg/dL.
Levothyroxine 75 mcg on an empty stomach.
The wound is dry and clean, no sign of infection.
Prednisone taper: 40 mg, 30 mg, 20 mg, 10 mg.
MRI of the lumbar spine without contrast showed no stenosis.
Chest clear, heart sounds normal, abdomen soft.
Warfarin was stopped five days before surgery.
No known drug allergies; family history of asthma.
Apply Hydrocortisone cream thinly twice a day.
Losartan 50 mg once a day, check potassium in two weeks.
Insulin glargine 18 units at night.
The X-ray shows a healed fracture of the left wrist.
Ondansetron 4 mg for nausea, may repeat after eight hours.
Cough for three weeks, no fever, no weight loss.
Sertraline 50 mg, follow up in six weeks.
"""
PARTS = """
The bearing 6204-2RS fits the shaft, the seal is included.
Replace the fuse with a 10 A slow-blow type.
Use an M8 x 40 bolt and a lock washer.
The cable is a USB-C to HDMI 2.1 adapter.
Filter type HEPA 13, 99.95 % of particles.
The tyre size is 205/55 R16 91V.
Battery: CR2032, 3 V, lithium.
The lamp takes an E27 bulb of up to 60 W.
Order two rolls of 12 mm plywood and a box of screws.
Resistors of 4.7 kOhm and capacitors of 100 nF.
The pump delivers 40 litres a minute at 3 bar.
Use ISO 9001 forms and EN 60204 drawings only.
RAM: 16 GB DDR5-5600, SSD: 1 TB NVMe.
The screen is 27 inches wide at 2560 x 1440.
Torque the nuts to 85 Nm in a cross pattern.
Nozzle 0.4 mm, layer height 0.2 mm, infill 15 %.
Pipe thread G 1/2, wall thickness 2 mm.
The kit holds 24 drill bits from 1 to 13 mm.
Toner for about 2600 pages at 5 % coverage.
Steel grade S235, hot rolled, 6 m long.
The motor runs at 1450 rpm and draws 2.2 kW.
Cable cross-section 3 x 1.5 mm2.
The chain has 116 links and fits 11-speed cassettes.
Spring rate 40 N/mm, free length 220 mm.
Gasket set for the intake manifold, five pieces.
"""
VERSIONS = """
Version 2.4.1 fixes the crash at startup.
Update from 1.9 to 2.0 before you install the plugin.
Python 3.11 and Node 20 are supported, Ruby 2.7 is not.
The release 2024.1 adds dark mode and faster search.
Works with Android 12 and later.
TLS 1.2 is the minimum, TLS 1.3 is preferred.
Bluetooth 5.3 and Wi-Fi 6E are on board.
We moved from PostgreSQL 13 to 16 last summer.
Kernel 6.1 has the driver, 5.15 has not.
Firmware v3.2.0-rc1 is a test version.
In 2019 we sold 1,250 units, in 2020 only 980.
HTTP/2 is on by default since 1.25.
Excel 365 shows the value as 12.5 %.
CUDA 12.4 needs a driver of 550 or newer.
The API v2 will be shut down at the end of the year.
Chapter 3.2 explains how errors are handled.
See section 4.1.2 on page 87 for the details.
The price went from $19.99 to $24.99.
Java 21 is the long-term release after 17.
It took 3.5 hours, 40 minutes less than before.
The score was 3:1 after 90 minutes.
Open daily from 9 am to 5 pm.
The train leaves at 10:45 from platform 7.
About 12,000 visitors came, 8 % more than in 2022.
The 5th edition has 640 pages and 200 figures.
"""
HEADINGS = """
Table of Contents
Terms and Conditions
Frequently Asked Questions
Executive Summary
PRODUCT OVERVIEW
GETTING STARTED
Return and Refund Policy
How It Works
System Requirements
Safety Instructions
Privacy Policy
Lessons Learned
Discharge Instructions
STATEMENT OF WORK
Materials and Methods
What Is New
Risk Assessment
Cleaning and Maintenance
Acknowledgements
Quick Start Guide
CUSTOMER SUPPORT
Review of Systems
Technical Data
Key Findings
Scope of Delivery
"""
ENGLISH = """
Thank you for your patience, the parcel will arrive next week.
I would like to cancel my subscription and get my money back.
The app crashes whenever I open the camera.
Please send me the invoice for the last order.
Can you tell me how to change the colour of the background?
The weather was fine and the children played in the garden.
She said that the meeting would take place after lunch.
Our team works on it and will let you know as soon as possible.
The delivery was late, but the product is great.
How do I connect the printer to my network?
It may rain in the summer, so take a light jacket.
The bill was paid by card, yet it still shows as open.
Mark the box and sign at the bottom of the form.
He will grant you access once the form is complete.
The rose garden is open until dusk.
April showers bring May flowers.
Reading the manual first would have saved me an hour.
The bank raised its rates, and the market fell.
Grace periods end after thirty days.
You can frank the letter at the counter.
Our support is happy to help you with this issue.
Sunny days and cool nights are good for the wine.
The basic plan is free, the team plan costs extra.
Please keep the token in a safe place and never share it.
We hope to see you again soon in our store.
"""
GERMAN = """
Der Vertrag läuft noch bis zum Ende des Jahres.
Bitte schicken Sie mir die Rechnung noch einmal zu.
Die Waschmaschine schleudert nicht mehr, obwohl der Filter sauber ist.
Vielen Dank für die schnelle Hilfe und die gute Beratung.
Im Sommer fahren wir oft an den See.
Die Kunden haben im letzten Jahr mehr bestellt als je zuvor.
Der Patient klagt über Schmerzen im rechten Knie.
Wir haben das Problem behoben und bitten um Entschuldigung.
Mit dem neuen Tarif sparen Sie jeden Monat Geld.
Das Gerät muss vor der ersten Benutzung geladen werden.
Die Lieferung kam pünktlich, aber die Verpackung war beschädigt.
Öffnen Sie die Einstellungen und wählen Sie Datenschutz.
Am Wochenende bleibt der Laden geschlossen.
Das Kind spielt im Garten mit dem Hund.
Die Prüfung der Unterlagen dauert etwa zwei Wochen.
Der Zug nach Norden fährt heute von einem anderen Gleis.
Bei Fieber hilft viel Trinken und Ruhe.
Die Suppe wird mit Salz, Pfeffer und Petersilie gewürzt.
Das Kennwort darf nicht leer sein.
Unser Angebot gilt nur, solange der Vorrat reicht.
Die Ergebnisse der Studie überraschten alle Beteiligten.
Ein Neustart hat das Problem leider nicht gelöst.
Der Antrag muss vollständig ausgefüllt werden.
Nach dem Regen roch die Luft nach Erde.
Die Heizung lässt sich am Regler einstellen.
"""
FRENCH = """
Le colis est arrivé en retard, mais le produit est parfait.
Je voudrais annuler mon abonnement à la fin du mois.
Merci beaucoup pour votre aide rapide et efficace.
La facture ne correspond pas au montant prévu.
Le patient se plaint de douleurs au genou droit.
Il faut charger la batterie avant la première utilisation.
Nous avons corrigé le problème et nous vous prions de nous excuser.
Ouvrez les paramètres et choisissez la langue.
Le magasin reste fermé le dimanche.
Les enfants jouent dans le jardin avec le chien.
La soupe est servie avec du pain et du fromage.
Le mot de passe ne doit pas être vide.
Cette offre est valable dans la limite des stocks.
Les résultats de cette étude ont surpris tout le monde.
Le train part de la voie sept dans dix minutes.
La police a fermé la rue pendant deux heures.
Je cherche un livre sur la cuisine du sud.
Votre demande sera traitée sous quinze jours.
Le vent du nord souffle depuis trois jours.
Il suffit de redémarrer la machine.
Tournez la molette jusqu'au clic.
Le rapport décrit les risques du projet.
La fontaine du parc coule de nouveau.
Enregistrez le fichier avant de fermer la fenêtre.
Le café est servi sans sucre.
"""
SPANISH = """
El paquete llegó tarde, pero el producto es perfecto.
Quiero cancelar mi suscripción al final del mes.
Muchas gracias por la ayuda rápida y amable.
La factura no coincide con el precio acordado.
El paciente tiene dolor en la rodilla derecha.
Hay que cargar la batería antes del primer uso.
Abra los ajustes y elija el idioma.
La tienda cierra los domingos.
Los niños juegan en el jardín con el perro.
La contraseña no puede estar vacía.
Esta oferta es válida hasta agotar existencias.
Los resultados del estudio sorprendieron a todos.
El tren sale de la vía siete en diez minutos.
Su solicitud se tramitará en quince días.
El viento del norte sopla desde hace tres días.
Basta con reiniciar la máquina.
La sopa se sirve con pan y queso.
En verano vamos a la playa con los amigos.
No encuentro el botón para guardar los cambios.
Este libro trata de la cocina del sur.
Gire la rueda hasta oír un clic.
El informe describe los riesgos del proyecto.
La fuente del parque funciona de nuevo.
Guarde el archivo antes de cerrar la ventana.
El café se sirve sin azúcar.
"""
DUTCH = """
Het pakket kwam te laat, maar het product is prima.
Ik wil mijn abonnement aan het eind van de maand opzeggen.
Hartelijk dank voor de snelle hulp.
De factuur klopt niet met de afgesproken prijs.
De patiënt heeft pijn in de rechterknie.
Laad de batterij op voor het eerste gebruik.
Open de instellingen en kies de taal.
De winkel is op zondag gesloten.
De kinderen spelen in de tuin met de hond.
Het wachtwoord mag niet leeg zijn.
Deze aanbieding geldt zolang de voorraad strekt.
De resultaten van het onderzoek verrasten iedereen.
De trein vertrekt over tien minuten van spoor zeven.
Uw aanvraag wordt binnen twee weken behandeld.
De wind waait al drie dagen uit het noorden.
U hoeft het apparaat alleen opnieuw te starten.
De soep wordt met brood en kaas geserveerd.
In de zomer gaan we vaak naar zee.
Ik kan de knop om op te slaan niet vinden.
Dit boek gaat over de keuken van het zuiden.
Draai aan de knop tot u een klik hoort.
Het rapport beschrijft de risico's van het project.
De fontein in het park werkt weer.
Sla het bestand op voordat u het venster sluit.
De koffie wordt zonder suiker geserveerd.
"""


def ordinary_texts() -> dict[str, list[str]]:
    """The texts by kind; `|` stands for a line's end where a text has several."""
    kinds = {
        "bullets": BULLETS, "code": CODE, "paths": PATHS, "medicines": MEDICINES, "parts": PARTS, "versions": VERSIONS,
        "headings": HEADINGS, "english": ENGLISH, "german": GERMAN, "french": FRENCH, "spanish": SPANISH,
        "dutch": DUTCH,
    }  # fmt: skip
    split = {kind: [line for line in lines.splitlines() if line] for kind, lines in kinds.items()}
    return {
        kind: [line.replace("|", "\n") if kind == "bullets" else line for line in lines]
        for kind, lines in split.items()
    }
