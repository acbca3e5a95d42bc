"""Texts in many languages for the token estimate's benchmark: what people ask and what models answer."""

# ruff: noqa: RUF001  These languages have letters that look like others; that is what is measured.

LANGUAGES = {
    "other languages, Latin letters": {
        "German": (
            "Fassen Sie den folgenden Bericht in drei Sätzen zusammen und nennen Sie die wichtigsten Zahlen.",
            "Die Lieferung ist gestern nicht angekommen, obwohl der Händler sie für Montag zugesagt hatte. Ich habe "
            "mehrfach angerufen, aber niemand konnte mir sagen, wo das Paket liegt. Bitte prüfen Sie den Vorgang und "
            "erstatten Sie mir die Versandkosten, falls die Ware nicht bis zum Wochenende eintrifft.",
        ),
        "French": (
            "Écris une lettre de motivation courte pour un poste de comptable dans une petite entreprise.",
            "Le train de huit heures est parti avec vingt minutes de retard, si bien que nous avons manqué notre "
            "correspondance à Lyon. Le contrôleur nous a conseillé de demander un remboursement en ligne, mais le "
            "formulaire refuse toujours notre numéro de dossier.",
        ),
        "Spanish": (
            "Explica en pocas palabras qué es la inflación y por qué afecta a los ahorros de las familias.",
            "La reunión del martes se ha aplazado porque faltan los datos de ventas del último trimestre. Cuando los "
            "tengamos, prepararemos una presentación con los resultados por región y una propuesta para reducir los "
            "gastos de transporte.",
        ),
        "Italian": (
            "Scrivi una risposta gentile al cliente che chiede quando arriverà il suo ordine.",
            "La biblioteca resterà chiusa da lunedì a mercoledì per lavori di manutenzione. I libri presi in prestito "
            "possono essere restituiti nella cassetta all'ingresso, mentre le prenotazioni verranno prolungate in modo "
            "automatico di una settimana.",
        ),
        "Portuguese": (
            "Traduza este parágrafo para inglês e mantenha o tom formal do texto original.",
            "O sistema ficou indisponível durante quase duas horas porque o disco do servidor principal encheu. A "
            "equipe já liberou espaço e configurou um alerta, mas ainda precisamos descobrir qual serviço gravou "
            "tantos arquivos temporários.",
        ),
        "Dutch": (
            "Maak een lijst van vijf goedkope maaltijden die je binnen een half uur kunt koken.",
            "De gemeente heeft besloten om de brug vanaf volgende week af te sluiten voor vrachtwagens. Fietsers en "
            "voetgangers kunnen er nog wel overheen, maar automobilisten moeten rekening houden met een omweg van "
            "ongeveer tien minuten.",
        ),
        "Swedish": (
            "Beskriv skillnaden mellan ett aktiebolag och en enskild firma för någon som ska starta eget.",
            "Vi har gått igenom fakturan och hittat två rader som inte stämmer med avtalet. Kan ni skicka en ny faktura "
            "med rätt belopp, så betalar vi den inom trettio dagar som vanligt?",
        ),
        "Polish": (
            "Napisz krótkie podsumowanie tego artykułu i podaj trzy najważniejsze wnioski.",
            "Pociąg do Krakowa odjedzie z peronu czwartego z opóźnieniem około piętnastu minut. Pasażerów prosimy o "
            "zachowanie ostrożności i słuchanie komunikatów, ponieważ numer toru może jeszcze ulec zmianie.",
        ),
        "Czech": (
            "Navrhni tři názvy pro malou kavárnu v centru města a ke každému připiš jednu větu.",
            "Reklamaci jsme přijali a během deseti dnů vám sdělíme, zda výrobek opravíme, nebo vyměníme za nový.",
        ),
        "Hungarian": (
            "Írj egy rövid köszönőlevelet annak a kollégának, aki segített a költözésben.",
            "A bolt szombaton csak délig tart nyitva, ezért kérjük, hogy a megrendelt könyveket péntekig vegyék át.",
        ),
        "Turkish": (
            "Bu müşteri yorumunu olumlu, olumsuz ya da tarafsız olarak sınıflandır.",
            "Toplantı yarın sabah saat dokuzda başlayacak ve yaklaşık iki saat sürecek. Katılamayacak olanların bugün "
            "akşama kadar haber vermesi gerekiyor, çünkü salonun büyüklüğünü ona göre seçeceğiz.",
        ),
        "Indonesian": (
            "Jelaskan cara kerja mesin pencari dengan bahasa yang mudah dipahami oleh anak sekolah.",
            "Pesanan Anda sudah kami terima dan akan dikirim besok pagi. Jika barang belum sampai dalam tiga hari, "
            "silakan hubungi layanan pelanggan dengan menyebutkan nomor pesanan yang tertera di bawah ini.",
        ),
        "Vietnamese": (
            "Hãy viết một đoạn văn ngắn giới thiệu thành phố của bạn cho khách du lịch.",
            "Chúng tôi đã nhận được yêu cầu hoàn tiền và sẽ xử lý trong vòng năm ngày làm việc. Nếu cần thêm thông tin, "
            "nhân viên sẽ gọi điện cho bạn theo số đã đăng ký.",
        ),
        "Finnish": (
            "Kirjoita lyhyt kuvaus asunnosta, joka on vuokrattavana keskustan lähellä.",
            "Kokous siirrettiin ensi viikkoon, koska puheenjohtaja sairastui eikä varajäsen ehtinyt paikalle.",
        ),
    },
    "Cyrillic, Greek": {
        "Russian": (
            "Составь список вопросов для собеседования с начинающим программистом.",
            "Вчера вечером сервер перестал отвечать на запросы, и мы потеряли около сорока минут. Причиной оказалась "
            "ошибка в настройках базы данных, которую уже исправили. Сегодня мы подготовим отчёт и предложим, как "
            "избежать такой ситуации в будущем.",
        ),
        "Ukrainian": (
            "Поясни простими словами, чим відрізняється бюджет від прогнозу витрат.",
            "Замовлення вже передано до служби доставки, тому змінити адресу можна лише за телефоном. Якщо посилка не "
            "надійде до п'ятниці, ми повернемо вам повну суму.",
        ),
        "Greek": (
            "Γράψε μια σύντομη περιγραφή για ένα παραδοσιακό εστιατόριο δίπλα στη θάλασσα.",
            "Το κατάστημα θα παραμείνει κλειστό την Παρασκευή λόγω απογραφής και θα ανοίξει ξανά τη Δευτέρα το πρωί.",
        ),
    },
    "Chinese, Japanese, Korean": {
        "Chinese": (
            "请用三句话总结下面的报告，并列出最重要的数字。",
            "昨天晚上系统出现了故障，大约有两千名用户无法登录。工程师已经找到原因并完成修复，今天我们会发布详细的说明，"
            "同时给受影响的客户发送一封道歉邮件。",
        ),
        "Chinese, traditional": (
            "請幫我寫一封禮貌的電子郵件，詢問訂單何時可以送達。",
            "由於颱風來襲，明天所有課程都改為線上進行，請同學們提前測試網路與設備。",
        ),
        "Japanese": (
            "次の文章を小学生にも分かるように、やさしい日本語で書き直してください。",
            "ご注文いただいた商品は、明日の午前中に発送する予定です。お届けまでに三日ほどかかる場合がございますので、"
            "あらかじめご了承ください。ご不明な点がありましたら、カスタマーサポートまでお問い合わせください。",
        ),
        "Korean": (
            "이 고객 리뷰를 긍정, 부정, 중립 가운데 하나로 분류해 주세요.",
            "회의는 내일 오전 열 시에 시작하며 자료는 오늘 저녁까지 공유할 예정입니다. 참석이 어려우신 분은 미리 "
            "말씀해 주시면 감사하겠습니다.",
        ),
    },
    "Arabic, Hebrew, Hindi, Thai": {
        "Arabic": (
            "اكتب ملخصا قصيرا لهذا التقرير واذكر أهم ثلاث نقاط فيه.",
            "تأخرت الطائرة أكثر من ساعتين بسبب سوء الأحوال الجوية، لذلك فاتتنا الرحلة التالية واضطررنا إلى قضاء الليلة في "
            "فندق قريب من المطار.",
        ),
        "Hebrew": (
            "כתוב תשובה קצרה ומנומסת ללקוח ששואל מתי תגיע ההזמנה שלו.",
            "הספרייה תהיה סגורה ביום שלישי, ולכן אפשר להחזיר את הספרים בתיבה שליד הכניסה.",
        ),
        "Hindi": (
            "इस लेख का सारांश तीन वाक्यों में लिखिए और मुख्य बातें बताइए।",
            "कल शाम बिजली चली जाने के कारण दुकान जल्दी बंद करनी पड़ी, इसलिए आपका सामान आज भेजा जाएगा।",
        ),
        "Thai": (
            "ช่วยเขียนคำบรรยายสั้น ๆ สำหรับร้านกาแฟเล็ก ๆ ใกล้สถานีรถไฟ",
            "เราได้รับคำขอคืนเงินของคุณแล้ว และจะดำเนินการภายในห้าวันทำการ",
        ),
    },
    "emoji": {
        "emoji": (
            "Great service, thank you so much!!! 😀😀 Will order again 👍🎉",
            "🚀 Release notes: faster search 🔍, fewer bugs 🐛, new icons ✨. Tell us what you think 💬❤️",
        ),
    },
}
