"""What the sample tickets are made of: phrases with slots, by what they decide.

The rules a model has to learn: the category follows from the problem, the priority from the urgency phrase, the queue
from both (a house rule that no general model can know). Who writes, a company or a private customer, decides nothing.
"""

QUEUE_OF = {
    "billing": "finance",
    "refund": "finance",
    "login": "identity",
    "privacy": "compliance",
    "delivery": "logistics",
    "technical": "engineering",
}
ON_CALL_SUFFIX = "-oncall"  # the queue of urgent tickets

PROBLEMS: dict[str, tuple[str, ...]] = {
    "billing": (
        "The invoice for my {plan} plan shows {amount} more than agreed.",
        "I was charged twice for the {plan} plan, {amount} each time.",
        "My {month} bill lists a fee of {amount} that nobody explained.",
        "You raised the price of the {plan} plan to {amount} without notice.",
        "The tax on my {month} invoice is wrong by {amount}.",
        "My card was billed {amount} although I use the free {plan} trial.",
        "The discount of {amount} is missing from the {month} invoice.",
        "I need a corrected invoice for {month}, the total of {amount} is off.",
        "A late fee of {amount} was added though I paid the {month} bill on time.",
        "Why does the {month} statement charge {amount} for a {product}?",
        "The yearly {plan} subscription was billed as monthly, {amount} in {month}.",
        "Two payments of {amount} were taken from me in {month}.",
    ),
    "refund": (
        "I sent the {product} back {days} days ago and want my {amount} returned.",
        "Please give me my money back for the {product}, it cost {amount}.",
        "The refund of {amount} for the {product} has not arrived after {days} days.",
        "I cancelled the {product} within {days} days and expect a full refund.",
        "You refunded only part of the {amount} I paid for the {product}.",
        "How do I return the {product} and get the {amount} back?",
        "My return of the {product} was accepted, but the {amount} refund is missing.",
        "I would like to be reimbursed {amount} for the {color} {product}.",
        "The shop promised to pay back {amount} for the {product} in {month}.",
        "The {color} {product} does not suit me, I want to return it for a refund.",
        "Your return label for the {product} expired, and I still want the {amount} back.",
        "I returned {count} items in {month}, yet only one was refunded.",
    ),
    "login": (
        "I cannot sign in to the {app} since {weekday}.",
        "The {app} locked my account after {count} tries.",
        "The reset link for the {app} never reaches my inbox.",
        "The {app} rejects my sign-in code every time since {weekday}.",
        "I changed phones and lost the {app} authenticator on {weekday}.",
        "The {app} says my account does not exist when I log in.",
        "Signing in to the {app} sends me back to the start page {count} times.",
        "My access to the {app} was blocked on {weekday} and I need it back.",
        "I forgot how to log in to the {app} after {days} days away.",
        "After the {month} update the {app} no longer accepts my sign-in.",
        "The two-step sign-in of the {app} fails on my {color} {device}.",
        "I am logged out of the {app} every {count} minutes on the {device}.",
    ),
    "privacy": (
        "Please delete all personal data that you hold about me since {month}.",
        "I want a copy of the data you collected through the {app}.",
        "Remove me from the mailing list, I got {count} newsletters in {month}.",
        "I withdraw my consent to tracking in the {app}.",
        "Another person's details showed up in my {app} profile on {weekday}.",
        "Who can see the data that the {product} records about me?",
        "You shared my details with an advertiser in {month}, I object.",
        "Please erase my {app} history of the last {days} days.",
        "Stop using my data for marketing, I told you in {month}.",
        "I ask for the list of firms that received my data from the {app}.",
        "The {app} asks for my contacts, I do not agree to that data sharing.",
        "Correct the personal data in your {app} records, it is wrong since {month}.",
    ),
    "delivery": (
        "My parcel with the {color} {product} has not arrived after {days} days.",
        "The courier left the {product} at the wrong house on {weekday}.",
        "Tracking for my {product} has not moved for {days} days.",
        "The box with the {color} {product} arrived crushed on {weekday}.",
        "I got a {color} {product} in the parcel, but ordered another colour.",
        "Only {count} of the parcels for my order were delivered.",
        "The driver did not ring on {weekday} and took the {product} away again.",
        "When will the {color} {product} be shipped? I ordered {days} days ago.",
        "Please send the {product} to another pick-up point, the parcel left on {weekday}.",
        "My shipment was marked delivered on {weekday}, but no {product} is here.",
        "The parcel has been stuck in the depot for {days} days with my {product}.",
        "The delivery slot on {weekday} passed and no courier brought the {product}.",
    ),
    "technical": (
        "The {app} crashes on my {device} each time I open the report page.",
        "My {product} stopped working after the {month} update.",
        "The {app} shows error {code} whenever I upload a file.",
        "The {color} {product} will not turn on, I tried {count} times.",
        "Exports from the {app} have been empty since {weekday}.",
        "The {app} is very slow on the {device} since {weekday}.",
        "My {product} loses its connection every {count} minutes.",
        "The screen of the {color} {product} flickers since {weekday}.",
        "The {app} freezes with code {code} on my {device}.",
        "Syncing the {product} with the {app} fails with error {code}.",
        "The {product} does not pair with my {device} since the {month} firmware.",
        "A bug in the {app} shows the {weekday} charts with wrong numbers.",
    ),
}

URGENCY: dict[str, tuple[str, ...]] = {
    "high": (
        "This is urgent.", "I need an answer today.", "Please act at once.", "It cannot wait until tomorrow.",
        "This is an emergency for me.", "Help me immediately.", "Please treat this as urgent.",
        "I must have this solved within the hour.", "Everything here stands still until you reply.",
        "Please escalate this right away.",
    ),
    "normal": (
        "Please look at it this week.", "An answer in the next few days is fine.", "Could you check by Friday?",
        "I would like to hear from you this week.", "Let me know within a couple of days.",
        "Please get back to me in the coming days.", "A reply by the end of the week would help.",
        "Some time this week would be good.", "Please handle it in your usual time.", "Two or three days are okay.",
    ),
    "low": (
        "There is no rush.", "Take your time with this.", "Whenever it suits you is fine.", "I am in no hurry.",
        "It can wait until next month.", "Just when you have spare time.", "No hurry at all.",
        "It is a minor thing, answer whenever you like.", "Only for your information, it can wait.",
        "Come back to it when things are quiet.",
    ),
}  # fmt: skip

CUSTOMER_FACTS = (
    "I write for our company.", "This is our business account.", "We are a company of {staff} people.",
    "Our firm has a business contract.", "Our office with {staff} desks depends on it.",
    "I manage the corporate account here.", "Our team at the company uses it daily.",
    "We have the business contract for {staff} seats.",
    "It is for my own use at home.", "I am a private customer.", "This is my personal account.",
    "I bought it for my family.", "I use it in my spare time.", "It is for my household of {count}.",
    "I am just a private user.", "It was a gift from my {relative}.",
)  # fmt: skip

GREETINGS = ("Hello,", "Hi,", "Hi there,", "Good morning,", "Dear support,", "Hello team,", "", "", "", "", "", "")
CLOSINGS = ("Thanks,", "Kind regards,", "Best,", "Thank you,", "Regards,", "Best regards,", "Cheers,", "Many thanks,")
FAREWELLS = ("Thank you.", "Thanks.", "Best wishes.", "", "", "", "", "")

SLOTS: dict[str, tuple[str, ...]] = {
    "plan": ("basic", "family", "premium", "student", "starter", "studio", "gold"),
    "month": ("January", "February", "March", "April", "June", "July", "August", "September", "October"),
    "weekday": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
    "product": ("headset", "router", "kettle", "lamp", "speaker", "camera", "backpack", "printer", "keyboard",
                "monitor", "toaster", "tripod", "thermostat", "tent", "blender", "projector"),
    "color": ("red", "blue", "black", "white", "green", "grey", "orange", "silver"),
    "app": ("web portal", "mobile app", "customer portal", "photo app", "booking site", "desktop client", "fitness app",
            "partner site", "music app", "learning site"),
    "device": ("tablet", "laptop", "old phone", "work computer", "smart watch", "television"),
    "relative": ("sister", "uncle", "mother", "cousin", "neighbour", "grandfather"),
}  # fmt: skip

# Added to tickets that get a near-duplicate: a word-5-gram Jaccard above 0.9 after one changed word needs length.
ELABORATIONS = (
    "I already looked through the help pages and followed every step that they describe, but nothing in there seems to "
    "fit what happens in my case.",
    "A colleague of yours told me on the telephone that somebody would look into the matter, and since then I have not "
    "heard a single word about it.",
    "I have been a happy customer for several years and would very much like to stay one, so I hope that we can find a "
    "good way to solve this.",
    "I tried the same thing again on another day and in another place, with exactly the same result, so I do not think "
    "that the mistake is on my side.",
    "If there is anything else that you need from me in order to work on this, please tell me what it is and I will "
    "gladly send it to you.",
    "I can describe each step that I took in more detail, and I also made some pictures which I could add to this "
    "ticket if that is of any use.",
)

# Kind of value → sentences that carry it; `{}` is the value.
PII_SENTENCES: dict[str, tuple[str, ...]] = {
    "PERSON": (
        "My name is {}.",
        "This is {} writing.",
        "I am {}.",
        "The account holder is {}.",
        "The order is under the name {}.",
    ),
    "EMAIL_ADDRESS": (
        "My email is {}.",
        "You can write to {}.",
        "Please answer to {}.",
        "I am registered as {}.",
        "Use {} to contact me.",
    ),
    "PHONE_NUMBER": (
        "Call me at {}.",
        "My phone number is {}.",
        "You can reach me on {}.",
        "Please ring {} after work.",
        "My mobile: {}.",
    ),
    "US_SSN": (
        "My SSN is {}.",
        "Social security number: {}.",
        "You asked for my SSN, it is {}.",
        "For the check, my social security number is {}.",
    ),
    "CREDIT_CARD": ("I paid with card {}.", "My card number is {}.", "The card on file is {}.", "Credit card: {}."),
    "IBAN_CODE": ("My IBAN is {}.", "Please use the bank account {}.", "Send money to IBAN {}.", "Bank details: {}."),
    "IP_ADDRESS": (
        "My IP address is {}.",
        "I connect from {}.",
        "The log shows {} as my address.",
        "It came from host {}.",
    ),
    "STREET_ADDRESS": (
        "I live at {}.",
        "My address is {}.",
        "Ship it to {}.",
        "Our place is {}.",
        "Delivery address: {}.",
    ),
    "DATE_OF_BIRTH": ("My date of birth is {}.", "I was born on {}.", "DOB: {}.", "My birthday is {}."),
    "ACCOUNT_NUMBER": (
        "My account number is {}.",
        "Account no. {}.",
        "The account {} is mine.",
        "It concerns account {}.",
    ),
    "INSURANCE_ID": (
        "My policy number is {}.",
        "Insurance policy {}.",
        "The member ID is {}.",
        "It is covered by policy {}.",
    ),
    "USERNAME": ("My username is {}.", "I log in as {}.", "User name: {}.", "My login is {}."),
    "PASSWORD": ("My password is {}.", "Password: {}.", "I used the password {}.", "The old password was {}."),
    "API_KEY": ("The API key is {}.", "Our token: {}.", "I used the key {}.", "API key {} is affected."),
    "URL": ("See {} for details.", "The page is {}.", "It happens on {}.", "My profile is {}."),
    "LICENSE_PLATE": ("My license plate is {}.", "The plate number is {}.", "License plate: {}."),
}
