"""Common given names of many countries, by which a capitalised pair of words is known to be a person.

Names that are everyday words, months, or places too are kept apart: they count only before a further capitalised word.
"""

COMMON = frozenset(
    """
aaron abdul abdullah abigail adam adrian adriana agnes agnieszka ahmed aiden aisha akira alan albert alberto
alejandro aleksandr alessandro alex alexander alexandra alexei alfred ali alice alicia alison allison alyssa
amanda amir amit amy ana anastasia andre andrea andreas andres andrew andrzej angela angelica anil anita anja
ann anna anne annette annika anthony antoine anton antonio anya ariana arjun arnold arthur arturo asha ashley
astrid aubrey audrey barbara beatrice beatriz benjamin bernard bernardo beth betty beverly bianca birgit björn
bob bogdan boris brandon brenda brent brett brian brianna bridget britta bruno bryan caitlin camille carl
carla carlos carmen caroline carolyn catherine cathy cecilia cesar charles charlie chen cheryl chiara chloe
christina christine christoph christopher cindy claire clara claude claudia clotilde colin connor constance
courtney craig crystal curtis cynthia daniel daniela danielle danny daria darius darlene david deborah debra
denise dennis derek diana diane diego dieter dimitri dmitri dolores dominic donald donna dorothy douglas dylan
edith eduardo edward edwin eileen elaine eleanor elena elias elisabeth elizabeth ella ellen emil emilia emily
emma enrique eric erica erik erika ernest esther ethan eugene eva evan evelyn fatima federico felicia felix
fernanda fernando filip fiona florian frances francesca francesco francine francis francisco frank franz
françois fred frederick fredrik gabriel gabriela gail gareth gary gavin gemma geoffrey george georgina gerald
gerard gertrude giovanni giulia giuseppe gloria gordon graham greg gregory greta guillermo gunnar gustav guy
haley hannah hans harold harriet harry hassan heather hector heidi heinrich helen helena helga henrik henry
herbert hiroshi holger howard hugo hussein ian ibrahim ignacio igor ines ingrid irene irina isaac isabel
isabella ivan jack jackie jacob jacqueline jaime jakob james jamie jan jana jane janet janice jared jasmine
jason javier jean jeff jeffrey jennifer jenny jeremy jerome jessica jill jim jimmy joan joanna joanne joao joe
joel johan johann johanna john johnny jonas jonathan jorge jose josef joseph josephine joshua josé joyce juan
juanita judith judy julia julian juliana julie juliette justin justyna jürgen kai karen karin karl karla
katarina kate katherine kathleen kathryn kathy katie katrin kayla keith kelly ken kenji kenneth kevin khalid
kim kimberly klaus kristen kristin kristina kumar kurt kyle larry lars laura lauren laurence laurent lawrence
layla leah leila leo leon leonard leonardo leslie li liam lillian linda lindsay lisa liu logan lois lorenzo
lori lorraine louis louise luca lucas lucia lucy luis luisa lukas luke luther lydia lynn madeleine magdalena
malik manuel marc marcel marcia marco marcus margaret maria marian marianne marie marina mario marion marjorie
markus marta martha martin martina mary mateo mathias matilda matt matteo matthew maureen maurice max maya
megan mehmet melanie melinda melissa mia michael michaela michel michele michelle miguel mike mikhail mila
milan mildred ming miriam mitchell mohamed mohammad mohammed mohan moira molly monica monika morgan muhammad
mustafa nadia nancy naomi natalia natalie natasha nathan nathaniel neil nicholas nicola nicolas nicole nigel
nikita nikolai nils nina noah noel nora norma norman olga oliver olivia omar oscar otto pablo pamela paolo
patricia patrick paul paula paulina paulo pedro peggy penelope pete peter petra phil philip philippe phillip
phyllis pierre piotr priya rachel rafael rahul rajesh ralph ramon randy raul ravi raymond rebecca regina
renata rene ricardo richard rita robert roberta roberto robin rodrigo rogelio roger roland rolf roman ronald
rosa rosalie rosario rosemary ross roxanne roy ruben rudolf russell ruth ryan sabine sabrina sally salvador
samantha samir samuel sandra sanjay santiago sara sarah sasha scott sean sebastian sergei sergio shannon
sharon shaun shawn sheila shirley silvia simon simone sofia sonia sophia sophie stanley stefan stefano stella
stephan stephanie stephen steve steven stuart sue suresh susan susanne suzanne sven svetlana sylvia takashi
tamara tammy tanya tara tatiana ted teresa terrence terry theodore theresa thomas tiffany tim timothy tina
todd tom tomas tony tracy travis tyler ulrich ursula valentina valerie vanessa vera veronica vicente victor
victoria vijay vikram vincent viola vivian vladimir walter wanda wang wayne wei wendy werner wilhelm william
winston wolfgang xavier yasmin yolanda yuki yuri yusuf yvette yvonne zachary zhang zoe
""".split()  # noqa: SIM905
)

AMBIGUOUS = frozenset(
    """
amber april art august austin autumn bill brook brooke carol carolina chad charity charlotte chase chelsea
chris christian christie clay cliff colt crystal dakota dale dallas dawn dean destiny dick don drew earl eden
eve faith florence ford gene georgia ginger glen grace grant guy hazel heath holly hope hunter iris israel ivy
jade jasper jay jean jordan josh joy june kenya lance lane lee lily madison mark marsha mason may melody
mercedes miles nick olive page paris parker pat pearl penny piper ray reed rich rob robin rocky rod rose ruby
rusty sage savannah sierra skip sky stone summer sunny sydney taylor trinity troy tucker vance victor virginia
wade warren will
""".split()  # noqa: SIM905
)

NOT_SURNAMES = frozenset(
    """
oil tree trees garden gardens camp break sale time period street park beach lake river valley hill hills road avenue
school college university hospital church tower bridge county city state states island islands bay coast festival day
days eve week year edition collection version mode club team group project house hall center centre water wine juice
salad sauce grey bread leaf leaves green blue red gold stone rock light sky dance music show book page pages number file
report plan bank card gift box design style price prices update release notes set up level stars star bar street fair
size sizes margin margins layout layouts theme themes font fonts template templates width height orientation header
headers footer footers break breaks builder editor color colors colour colours
title titles url link links load loads view
views viewer complete completed read unread required count counts counter button buttons icon icons menu menus panel
tab tabs toolbar sidebar widget widgets window windows border borders background settings setting option options preview
zoom rank ranking speed limit limits error errors index range source setup access permission permissions role
roles filter filters cache token tokens
""".split()  # noqa: SIM905
)
"""What follows a word of everyday use (`Olive Oil`, `Summer Sale`) and shows that it is no given name."""
