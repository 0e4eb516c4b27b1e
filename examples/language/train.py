"""The language of a short text by its trigrams of letters: a naive Bayes classifier that is a Python function, not an ONNX file.

Writes v1/weights.json, v1/samples.json and traffic.json: the same bytes each time. Usage: python examples/language/train.py
"""

import importlib.util
import json
import math
import sys
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parent
KEPT = 120  # trigrams of each language
HELD_OUT = 4  # sentences of each language, its last ones

TEXTS = {
    "de": [
        "Das Schiff liegt seit gestern im Hafen und wartet auf seine Ladung.",
        "Der Kapitän hat die Mannschaft für den nächsten Morgen bestellt.",
        "Wir brauchen noch drei Tage, bis die Maschine wieder läuft.",
        "Die Werft baut in diesem Jahr sechs neue Fähren für die Nordsee.",
        "Bei starkem Wind werden die Kräne auf dem Kai nicht bewegt.",
        "Niemand weiß, wann der Nebel sich über dem Wasser auflöst.",
        "Auf der Brücke steht ein junger Mann und schaut durch das Fernglas.",
        "Die Zollbeamten wollen jeden Container einzeln öffnen lassen.",
        "Wer das Wetter kennt, fährt heute lieber nicht hinaus.",
        "Am Abend wurde das letzte Seil gelöst und die Reise begann.",
        "Ich habe meinen Schlüssel in der Kajüte liegen lassen.",
        "Zwischen den Inseln ist das Fahrwasser eng und gefährlich.",
        "Nach dem Essen gingen alle schnell wieder an die Arbeit.",
        "Das neue Dock ist lang genug für zwei große Frachter.",
    ],
    "en": [
        "The ship has been waiting in the harbour since yesterday morning.",
        "Nobody on the bridge could see the lighthouse through the fog.",
        "We will need three more days until the engine runs again.",
        "This year the yard is building six new ferries for the north.",
        "When the wind is strong the cranes on the quay do not move.",
        "She wrote down everything that the captain had told her.",
        "There is enough room in the new dock for two large freighters.",
        "The customs officers want every single container to be opened.",
        "Those who know the weather would rather stay at home today.",
        "In the evening the last rope was let go and the journey began.",
        "I must have left my keys somewhere in the cabin.",
        "Between the islands the channel is narrow and dangerous.",
        "After dinner everybody went straight back to work.",
        "What was loaded last should be the first to leave the hold.",
    ],
    "es": [
        "El barco espera su carga en el puerto desde ayer por la mañana.",
        "Nadie en el puente podía ver el faro a través de la niebla.",
        "Necesitamos tres días más hasta que la máquina vuelva a funcionar.",
        "Este año el astillero construye seis nuevos transbordadores para el norte.",
        "Cuando el viento es fuerte las grúas del muelle no se mueven.",
        "Ella apuntó todo lo que el capitán le había dicho.",
        "En el nuevo dique hay sitio para dos grandes cargueros.",
        "Los aduaneros quieren que se abra cada uno de los contenedores.",
        "Quien conoce el tiempo prefiere quedarse hoy en casa.",
        "Por la noche soltaron la última cuerda y comenzó el viaje.",
        "Creo que dejé las llaves en algún lugar del camarote.",
        "Entre las islas el canal es estrecho y peligroso.",
        "Después de comer todos volvieron enseguida al trabajo.",
        "Lo que se cargó al final debe salir primero de la bodega.",
    ],
    "fr": [
        "Le navire attend sa cargaison dans le port depuis hier matin.",
        "Personne sur la passerelle ne voyait le phare à travers la brume.",
        "Il nous faut encore trois jours avant que la machine ne reparte.",
        "Cette année le chantier construit six nouveaux bacs pour le nord.",
        "Quand le vent est fort les grues du quai ne bougent pas.",
        "Elle a noté tout ce que le capitaine lui avait dit.",
        "Le nouveau bassin est assez long pour deux grands cargos.",
        "Les douaniers veulent faire ouvrir chacun des conteneurs.",
        "Ceux qui connaissent la météo préfèrent rester chez eux aujourd'hui.",
        "Le soir on a largué la dernière amarre et le voyage a commencé.",
        "J'ai dû laisser mes clés quelque part dans la cabine.",
        "Entre les îles le chenal est étroit et dangereux.",
        "Après le repas tout le monde est vite retourné au travail.",
        "Ce qui fut chargé en dernier doit quitter la cale en premier.",
    ],
}


def function():
    """The package's own module: what is trained is what is run."""
    spec = importlib.util.spec_from_file_location("language_predict", HERE / "v1/predict.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def weights(trigrams):
    """The logarithm of each kept trigram's share, by language; Laplace's rule for those that a language has not."""
    counts = {name: Counter(gram for text in texts[:-HELD_OUT] for gram in trigrams(text)) for name, texts in TEXTS.items()}
    kept = sorted({gram for count in counts.values() for gram, _ in sorted(count.items(), key=lambda one: (-one[1], one[0]))[:KEPT]})
    total = {name: sum(count[gram] + 1 for gram in kept) for name, count in counts.items()}
    table = {gram: [round(math.log((counts[name][gram] + 1) / total[name]), 4) for name in TEXTS] for gram in kept}
    return {"languages": list(TEXTS), "trigrams": table}


def held_out():
    """Sentences that trained nothing, with their languages."""
    return [(text, name) for name, texts in TEXTS.items() for text in texts[-HELD_OUT:]]


def tensor(name, datatype, values):
    return {"name": name, "datatype": datatype, "shape": [len(values)], "data": list(values)}


def request(texts):
    return {"inputs": [tensor("text", "BYTES", texts)]}


def response(module, texts, **flags):
    answer = module.predict({"text": texts}, {"least-confidence": 0.0, **flags})
    confidence = [float(value) for value in answer["confidence"]]
    return {"outputs": [tensor("language", "BYTES", answer["language"]), tensor("confidence", "FP32", confidence)]}


def written(path, value):
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def main():
    path = HERE / "v1/weights.json"
    path.write_text("{}", encoding="utf-8") if not path.exists() else None
    sys.dont_write_bytecode = True
    found = weights(function().trigrams)
    lines = ",\n".join(f"{json.dumps(gram, ensure_ascii=False)}: {json.dumps(row)}" for gram, row in found["trigrams"].items())
    path.write_text(f'{{"languages": {json.dumps(found["languages"])}, "trigrams": {{\n{lines}\n}}}}\n', encoding="utf-8")
    module, rows = function(), held_out()
    tolerance = {"absolute": 1e-4, "relative": 1e-4}
    samples = [
        {"name": f"held-out-{index}", "request": request([text]), "response": response(module, [text]), "tolerance": tolerance}
        for index, (text, _) in enumerate(rows[::4])
    ]
    unsure, strict = ["ok"], 0.9
    samples.append({
        "name": "unsure", "flags": {"least-confidence": strict}, "request": request(unsure),
        "response": response(module, unsure, **{"least-confidence": strict}), "tolerance": tolerance,
    })
    written(HERE / "v1/samples.json", samples)
    traffic = [{"id": f"held-out-{index}", "request": request([text]), "label": name} for index, (text, name) in enumerate(rows)]
    written(HERE / "traffic.json", traffic)
    answers = module.predict({"text": [text for text, _ in rows]}, {"least-confidence": 0.0})["language"]
    right = sum(answer == name for answer, (_, name) in zip(answers, rows))
    print(f"accuracy on {len(rows)} held-out sentences: {right / len(rows):.4f}")


if __name__ == "__main__":
    main()
