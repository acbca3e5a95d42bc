"""The language and the lines of code answers: a table of labelled cases, and bounds on time and on names."""

# Above 300 lines, because the labelled cases are the measure and stand in one place.

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from code_facts import CODE_HEAD, LANGUAGES, PROMPT_HEAD, PROMPT_TAIL, TAGS, CodeFacts, code_facts
from code_names import HINTS
from code_shapes import MARKS

# Cases by which the rules were made: prompt, reply, language. Every one holds.
# fmt: off
KNOWN = [
    # What the fence says, over all else.
    ("Write it in Java", "```python\nx = 1\n```", "python"),
    ("x", "```js\nx\n```", "javascript"),
    ("x", "```c++\nx\n```", "cpp"),
    ("x", "```C#\nx\n```", "csharp"),
    ("x", "```golang\nx\n```", "go"),
    ("x", "```yml\nx\n```", "yaml"),
    ("x", "```python title=\"a.py\"\nx\n```", "python"),
    ("x", "```{.ruby}\nx\n```", "ruby"),
    ("x", "```postgresql\nx\n```", "sql"),
    ("x", "```toml\nx\n```", "other"),
    ("x", "First:\n```bash\npip install a\n```\nthen\n```python\nimport a\na.run()\n```", "python"),
    ("x", "```rust\nfn main() {", "rust"),
    ("in Ruby", "```output\nx\n```", "ruby"),
    ("in Perl", "```nonsense\nx\n```", "perl"),
    # What the prompt names.
    ("Write a function in Rust that parses dates", "x", "rust"),
    ("a TypeScript function which debounces", "x", "typescript"),
    ("Write a Java Script function", "x", "javascript"),
    ("write a script in bash", "x", "bash"),
    ("Write a shell script that counts lines", "x", "bash"),
    ("Write an idiomatic Go function that reverses a string", "x", "go"),
    ("write a go function for it", "x", "go"),
    ("Let's go: write a Python function", "x", "python"),
    ("Go to the end of a list in Kotlin", "x", "kotlin"),
    ("Go through a tree in C and free it", "x", "c"),
    ("Write a C program that echoes", "x", "c"),
    ("Write C code for a ring buffer", "x", "c"),
    ("Write a C99 function that swaps two ints", "x", "c"),
    ("Write a C++17 program with std::filesystem", "x", "cpp"),
    ("Solve it in C++.", "x", "cpp"),
    ("Solve it in C#.", "x", "csharp"),
    ("Convert a temperature in C to F, in Python", "x", "python"),
    ("Turn C major chords into MIDI notes with Python", "x", "python"),
    ("Write an R function that computes the mode", "x", "r"),
    ("Show me R code for a t-test", "x", "r"),
    ("Plot y = 1/R^2 with Python", "x", "python"),
    ("Rewrite this Perl script in Python", "x", "python"),
    ("Translate from Python to Go:", "x", "go"),
    ("Translate this Java class into Kotlin", "x", "kotlin"),
    ("Refactor this Ruby method", "x", "ruby"),
    ("Write a SQL query that finds all Java developers", "x", "sql"),
    ("Write a SQL query builder in TypeScript", "x", "typescript"),
    ("Write a JSON parser in Haskell", "x", "haskell"),
    ("Write a Python interpreter in Rust", "x", "rust"),
    ("A Python script that finds TODOs in Java files", "x", "python"),
    ("Write a Python function that returns its result as JSON", "x", "python"),
    ("Write a JSON schema for an invoice", "x", "json"),
    ("Convert this JSON to YAML", "x", "yaml"),
    ("Write a docker compose file in YAML for Postgres", "x", "yaml"),
    ("Write CSS that centers a div in HTML", "x", "css"),
    ("Create a React component in TypeScript", "x", "typescript"),
    ("Write a Flask app that stores users in PostgreSQL", "x", "python"),
    ("Do it in JavaScript, not TypeScript", "x", "javascript"),
    ("Use Scala instead of Java", "x", "scala"),
    ("Without Python: write it in Lua", "x", "lua"),
    ("Write Dart code for a stopwatch", "x", "dart"),
    ("Write an Elixir module that keeps a counter", "x", "elixir"),
    ("Write a Fortran subroutine", "x", "other"),
    ("Write an Objective-C class", "x", "other"),
    ("Write unit tests for this Python function", "x", "python"),
    ("Escribe una función en Go que sume dos números", "x", "go"),
    ("Напиши функцию на Python", "x", "python"),
    # False friends: nothing is named.
    ("Write a swift reply to Julia about the rust on her ruby ring", "x", "other"),
    ("Validate a SWIFT code", "x", "other"),
    ("Go ahead and write it, then go to the next", "x", "other"),
    ("Which vitamin C tablets are best? Plan C?", "x", "other"),
    ("Write a letter for Taylor Swift", "x", "other"),
    ("Put the R&D costs in order", "x", "other"),
    ("Write a program that scores a game of darts", "x", "other"),
    # What the code looks like.
    ("x", "<?php\necho 'hi';", "php"),
    ("x", "<!DOCTYPE html>\n<html></html>", "html"),
    ("x", "FROM python:3.12\nCOPY . /app\nCMD [\"python\"]", "dockerfile"),
    ("x", "#!/usr/bin/perl\nuse strict;\nmy $x = 1;", "perl"),
    ("x", "import Foundation\n\nfunc add(_ a: Int, _ b: Int) -> Int {\n    return a + b\n}", "swift"),
    ("x", "object Main extends App {\n  def add(a: Int, b: Int): Int = a + b\n  println(add(1, 2))\n}", "scala"),
    ("x", "local t = {}\nfunction t.add(a, b)\n  return a + b\nend\nreturn t", "lua"),
    ("x", "function add(a, b)\n    return a + b\nend\n\nprintln(add(1, 2))", "julia"),
    ("x", "import 'dart:io';\n\nvoid main() {\n  print('hi');\n}", "dart"),
    ("x", "CREATE TABLE users (\n  id INTEGER PRIMARY KEY\n);", "sql"),
    ("returns JSON", "import json\n\n\ndef f():\n    return json.dumps({})", "python"),
    ("x", "[{\"a\": 1}, {\"a\": 2}]", "json"),
    ("x", "async function load(url) {\n  const reply = await fetch(url);\n  return reply.json();\n}", "javascript"),
    ("x", "Sorry, I cannot write that.", "other"),
    ("x", "", "other"),
    ("", "", "other"),
]

# The same, of prompts alone.
ASKED = [
    ("can you help me with a regex in python that matches phone numbers", "python"),
    ("How do I sort a map by value in golang?", "go"),
    ("I'm getting a NullPointerException in my Java code, fix it: String s = null; s.length();", "java"),
    ("Make a snake game in pygame", "python"),
    ("Write a simple chat server with Node.js and socket.io", "javascript"),
    ("Please create a bubble sort algorithm in c++ and explain it", "cpp"),
    ("write me a python program to find prime numbers, then translate it to c", "c"),
    ("Give me an example of async/await in Rust with tokio", "rust"),
    ("Write a bash one liner to delete all files older than 30 days", "bash"),
    ("Create a responsive navbar using HTML and CSS", "html"),
    ("Write code in R to read an Excel file and draw a boxplot", "r"),
    ("Write a VBA macro that copies a sheet", "other"),
    ("Excel formula to sum a column if another is yes", "other"),
    ("Create a Kubernetes deployment manifest for redis", "yaml"),
    ("Write a Terraform module for an S3 bucket", "other"),
    ("Create a table in Postgres with users and orders, with foreign keys", "sql"),
    ("optimize this sql: select * from a where b in (select c from d)", "sql"),
    ("make a discord bot in discord.py that says hi", "python"),
    ("Write a unity script that moves the player", "csharp"),
    ("Implement a LRU cache class. Language: Kotlin", "kotlin"),
    ("Language: C. Task: implement strlen without the standard library.", "c"),
    ("As a senior Swift developer, write a view model that loads a list", "swift"),
    ("You are an expert Ruby programmer. Write a method that flattens arrays.", "ruby"),
    ("Write a function in the style of Go's http.HandlerFunc, but for TypeScript", "typescript"),
    ("Write a makefile for a C project", "other"),
    ("PHP: connect to MySQL with PDO and list all users", "php"),
    ("write a perl regex to strip html tags", "perl"),
    ("Write a script to rename files, use powershell", "powershell"),
    ("Write a Dart class for a Flutter widget with a counter", "dart"),
    ("Write a C header for a stack", "c"),
    ("Solve two sum in Java 17 using streams", "java"),
    ("Write a JSON file with three users", "json"),
    ("Write a function add(a, b) in JS", "javascript"),
    ("Create a Spring Boot controller with CRUD", "java"),
    ("Use pandas to compute a moving average", "python"),
    ("Generate a docker-compose.yml with postgres and redis", "yaml"),
    ("Write an awk command that sums the second column", "bash"),
    ("Write a Lua script for Roblox that gives coins", "lua"),
    ("I go to school by bus. Write a haiku generator in Elixir.", "elixir"),
    ("Write a function that converts Celsius (C) to Fahrenheit (F) in Julia", "julia"),
    ("Explain the following C# code and add comments: int x = 1;", "csharp"),
    ("Write a CSS animation for a bouncing ball", "css"),
    ("Write a Scala case class for a tree and a fold", "scala"),
]

# Written before the rules were (the first half) or after them (the second), and never looked at to better them. What is
# wrong stays wrong here, so that the share that is right says what to expect of others.
HELD_OUT = [
    # What the fence says.
    ("Reverse a linked list please", "```c\nstruct node *reverse(struct node *head) {\n}\n```", "c"),
    ("How do I list pods?", "```shell\nkubectl get pods -A\n```", "bash"),
    ("Type-safe event bus", "Here you are:\n\n```tsx\nexport const Bus = () => <p/>;\n```\nHave fun.", "typescript"),
    ("Sum a list in Python", "```py\nprint(sum([1, 2]))\n```", "python"),
    ("Read a CSV", "```\nimport csv\nwith open('a.csv') as f:\n    rows = list(csv.reader(f))\n```", "python"),
    ("Matrix product", "```Fortran\nC = matmul(A, B)\n```", "other"),
    ("Hello world in Kotlin", "```text\nfun main() = println(\"hello\")\n```", "kotlin"),
    # What the prompt names.
    ("Write a bash script that backs up my home folder to /mnt/backup every night.", "rsync -a ~ /mnt/backup", "bash"),
    ("I need a Rust function to parse semver strings", "todo", "rust"),
    ("Implement quicksort in C++ using templates", "todo", "cpp"),
    ("Implement quicksort in C#, please", "todo", "csharp"),
    ("implement quicksort in c", "todo", "c"),
    ("Give me a Go program that serves a folder over HTTP", "todo", "go"),
    ("I want to go through a list in Python and drop the odd numbers", "todo", "python"),
    ("Convert this JavaScript function to TypeScript: function f(a) { return a }", "todo", "typescript"),
    ("Port the following Python code to Java.\n\ndef f(x):\n    return x + 1", "todo", "java"),
    ("SQL query: the ten customers with the highest turnover this year", "todo", "sql"),
    ("Using R, plot a histogram of the residuals of a linear model", "todo", "r"),
    ("Write a Swift struct for a bank account that validates the IBAN", "todo", "swift"),
    ("Write a PHP class that sends mail through SMTP", "todo", "php"),
    ("A PowerShell one-liner that finds the ten largest files", "todo", "powershell"),
    ("Create a Dockerfile for a Python web service", "todo", "dockerfile"),
    ("Write a Python script that reads a YAML file and prints it as JSON", "todo", "python"),
    ("Write a GitHub Actions workflow in YAML which runs pytest", "todo", "yaml"),
    ("Schreibe eine Funktion in Java, die prüft, ob eine Zahl eine Primzahl ist", "todo", "java"),
    ("Écris une fonction en Python qui trie un dictionnaire par valeur", "todo", "python"),
    ("用Go写一个简单的TCP服务器", "todo", "go"),
    ("How would you write map() from scratch in Haskell?", "todo", "haskell"),
    ("write an html page with a contact form", "todo", "html"),
    ("Write a React component that shows a countdown", "todo", "javascript"),
    ("Write a COBOL program which prints a payroll", "todo", "other"),
    ("Validate a SWIFT code with a regular expression in Ruby", "todo", "ruby"),
    ("Rewrite this without jQuery, in plain JavaScript", "todo", "javascript"),
    ("Write a game in which you go from room to room. Use Lua.", "todo", "lua"),
    ("Julia function computing the Fibonacci numbers with memoization", "todo", "julia"),
    # What the code looks like.
    ("Debounce, please", "const debounce = (fn, ms) => {\n  let t;\n  return (...a) => {\n    clearTimeout(t);\n    t = setTimeout(() => fn(...a), ms);\n  };\n};", "javascript"),
    ("Fibonacci", "def fib(n: int) -> int:\n    a, b = 0, 1\n    for _ in range(n):\n        a, b = b, a + b\n    return a", "python"),
    ("Greatest common divisor", "fn gcd(a: u64, b: u64) -> u64 {\n    if b == 0 { a } else { gcd(b, a % b) }\n}", "rust"),
    ("Read lines of a file", "package main\n\nimport (\n\t\"bufio\"\n\t\"os\"\n)\n\nfunc main() {\n\tf, err := os.Open(\"a\")\n\tif err != nil {\n\t\tpanic(err)\n\t}\n\tdefer f.Close()\n}", "go"),
    ("Find duplicates in orders", "SELECT customer_id, COUNT(*)\nFROM orders\nGROUP BY customer_id\nHAVING COUNT(*) > 1;", "sql"),
    ("Stack with generics", "public class Stack<T> {\n    private final List<T> items = new ArrayList<>();\n    public void push(T item) { items.add(item); }\n}", "java"),
    ("Retry three times", "#!/usr/bin/env bash\nfor i in 1 2 3; do\n  curl -fsS \"$1\" && break\n  sleep 1\ndone", "bash"),
    ("Center a div", ".box {\n  display: flex;\n  align-items: center;\n  justify-content: center;\n}", "css"),
    ("Word count", "words = Hash.new(0)\nFile.foreach('a.txt') do |line|\n  line.split.each { |w| words[w] += 1 }\nend\nputs words", "ruby"),
    ("Hello", "#include <stdio.h>\n\nint main(void) {\n    printf(\"hello\\n\");\n    return 0;\n}", "c"),
    ("Hello", "#include <iostream>\n\nint main() {\n    std::cout << \"hello\\n\";\n}", "cpp"),
    ("Hello", "using System;\n\nclass Program\n{\n    static void Main() => Console.WriteLine(\"hello\");\n}", "csharp"),
    ("Deployment of nginx with two replicas", "apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: nginx\nspec:\n  replicas: 2", "yaml"),
    ("A user as an example", "{\n  \"id\": 1,\n  \"name\": \"Ada\",\n  \"tags\": [\"a\", \"b\"]\n}", "json"),
    ("Shapes", "interface Shape {\n  area(): number;\n}\n\nexport class Circle implements Shape {\n  constructor(private r: number) {}\n  area(): number { return Math.PI * this.r ** 2; }\n}", "typescript"),
    ("Filter the adults", "fun adults(people: List<Person>): List<Person> =\n    people.filter { it.age >= 18 }", "kotlin"),
    ("Map over a tree", "data Tree a = Leaf | Node (Tree a) a (Tree a)\n\nmapTree :: (a -> b) -> Tree a -> Tree b\nmapTree _ Leaf = Leaf", "haskell"),
    ("Largest files", "Get-ChildItem -Recurse | Sort-Object Length -Descending | Select-Object -First 10", "powershell"),
    ("Mean by group", "library(dplyr)\n\nresult <- df %>%\n  group_by(g) %>%\n  summarise(m = mean(x))", "r"),
    ("Counter process", "defmodule Counter do\n  use GenServer\n\n  def init(n), do: {:ok, n}\nend", "elixir"),
    ("Does this poem scan?", "It does not: the third line has a foot too many.", "other"),
    ("can u write a quick python thing that renames all my photos by date", "todo", "python"),
    ("Need a stored procedure in T-SQL which archives old orders", "todo", "sql"),
    ("Fix the borrow checker error in my Rust code: let s = String::new();", "todo", "rust"),
    ("Write a thread-safe singleton, C++11 or newer", "todo", "cpp"),
    ("Create a REST endpoint with Express that uploads a file", "todo", "javascript"),
    ("write a recursive fibonacci in java and c#", "todo", "java"),
    ("Translate the following pseudo code to Haskell: for each x in xs double it", "todo", "haskell"),
    ("Our team is going to go live on Friday. Write a checklist script in Bash.", "todo", "bash"),
    ("Give me a one-liner in Perl that prints every second line", "todo", "perl"),
    ("Write an ESP32 program in C that blinks an LED", "todo", "c"),
    ("How to reverse a string in Swift?", "todo", "swift"),
    ("Build a login form (HTML, CSS and a little JavaScript)", "todo", "html"),
    ("Write a pytest fixture that starts a temporary Postgres", "todo", "python"),
    ("Extend this Kotlin data class by a copy method that checks its age", "todo", "kotlin"),
    ("a go routine that reads from a channel until it is closed", "todo", "go"),
    ("Write a goroutine pool", "package pool\n\ntype Pool struct {\n\tjobs chan func()\n}", "go"),
    ("Write a LaTeX table with three columns", "todo", "other"),
    ("Write a MongoDB aggregation that groups by city", "todo", "other"),
    ("Make a table of vitamin C, D and E", "| vitamin | food |\n|---|---|\n| C | lemon |", "other"),
    ("Write an R Markdown chunk that loads tidyverse", "todo", "r"),
    ("Rewrite in Go: def add(a, b): return a + b", "todo", "go"),
    ("Rewrite def add(a, b): return a + b so that it has type hints", "def add(a: int, b: int) -> int:\n    return a + b", "python"),
    ("Sort an array of objects by two keys", "arr.sort((a, b) => a.x - b.x || a.y - b.y);", "javascript"),
    ("Read a config file", "import yaml\n\nwith open(\"config.yaml\") as f:\n    config = yaml.safe_load(f)", "python"),
    ("Ring buffer", "typedef struct {\n    int *data;\n    size_t head, tail, size;\n} ring;\n\nvoid ring_init(ring *r, int *data, size_t size) {\n    r->data = data;\n    r->size = size;\n}", "c"),
    ("Linked list", "class Node:\n    def __init__(self, value, next=None):\n        self.value = value\n        self.next = next", "python"),
    ("Singleton", "class Singleton {\n  static #instance;\n  static get() {\n    return this.#instance ??= new Singleton();\n  }\n}", "javascript"),
    ("Matrix sum", "template <typename T>\nT sum(const std::vector<std::vector<T>>& m) {\n    T s{};\n    for (auto& r : m) for (auto& x : r) s += x;\n    return s;\n}", "cpp"),
    ("User repository", "public interface UserRepository extends JpaRepository<User, Long> {\n    Optional<User> findByEmail(String email);\n}", "java"),
    ("User list", "public record User(string Name, int Age);\n\nvar adults = users.Where(u => u.Age >= 18).ToList();\nConsole.WriteLine(adults.Count);", "csharp"),
    ("A view", "import SwiftUI\n\nstruct Hello: View {\n    var body: some View {\n        Text(\"Hello\")\n    }\n}", "swift"),
    ("Quick sort", "quicksort [] = []\nquicksort (p:xs) = quicksort [x | x <- xs, x < p] ++ [p] ++ quicksort [x | x <- xs, x >= p]", "haskell"),
    ("Even numbers", "val evens = (1..10).filter { it % 2 == 0 }\nprintln(evens)", "kotlin"),
    ("Even numbers", "let evens: Vec<i32> = (1..=10).filter(|x| x % 2 == 0).collect();\nprintln!(\"{:?}\", evens);", "rust"),
    ("Even numbers", "(1..10).select(&:even?).each { |n| puts n }", "ruby"),
    ("Even numbers", "for i = 2, 10, 2 do\n  print(i)\nend", "lua"),
    ("Even numbers", "<ul>\n  <li>2</li>\n  <li>4</li>\n</ul>", "html"),
    ("Users by country", "WITH c AS (SELECT country, COUNT(*) AS n FROM users GROUP BY country)\nSELECT * FROM c ORDER BY n DESC;", "sql"),
    ("Nginx in a container", "FROM nginx:1.27-alpine\nCOPY site /usr/share/nginx/html\nEXPOSE 80", "dockerfile"),
    ("Show disk use", "df -h | sort -k5 -r | head -n 5", "bash"),
]
# fmt: on


@pytest.mark.parametrize(("prompt", "reply", "language"), KNOWN)
def test_the_language_of_a_known_case_is_found(prompt, reply, language):
    assert code_facts(prompt, reply).language == language


@pytest.mark.parametrize(("prompt", "language"), ASKED)
def test_the_language_that_a_prompt_asks_for_is_found_without_a_look_at_the_code(prompt, language):
    assert code_facts(prompt, "todo").language == language


def test_nine_of_ten_cases_that_the_rules_have_not_seen_are_right_and_hardly_one_is_named_wrongly():
    found = [(code_facts(prompt, reply).language, language) for prompt, reply, language in HELD_OUT]
    right = sum(said == language for said, language in found)
    named_wrongly = sum(said not in (language, "other") for said, language in found)
    assert right >= 0.9 * len(found)
    assert named_wrongly <= 0.02 * len(found)


def test_a_third_of_all_cases_is_held_out_and_every_language_has_one():
    cases = [*KNOWN, *HELD_OUT]
    assert len(HELD_OUT) >= (len(cases) + len(ASKED)) / 3
    assert {language for _, _, language in cases} == set(LANGUAGES)


def test_the_names_are_a_closed_set():
    promised = "python javascript typescript java c cpp csharp go rust ruby php swift kotlin scala sql bash powershell"
    promised += " html css r julia lua perl haskell elixir dart json yaml dockerfile other"
    assert set(LANGUAGES) == set(promised.split())
    assert {*TAGS, *HINTS, *MARKS} <= set(LANGUAGES)
    assert all(name == name.lower() and len(name) <= 32 for name in LANGUAGES)


def test_the_fence_outranks_the_prompt_and_the_prompt_outranks_the_shape():
    rust = 'fn main() {\n    println!("hi");\n}'
    assert code_facts("Write it", rust).language == "rust"
    assert code_facts("Write it in Lua", rust).language == "lua"
    assert code_facts("Write it in Lua", f"```perl\n{rust}\n```").language == "perl"


def test_code_outweighs_what_a_prompt_mentions_only_in_passing():
    rust = 'fn main() {\n    println!("hi");\n}'
    assert code_facts("My Java class is slow", rust).language == "rust"
    assert code_facts("My Java class is slow", "x").language == "java"


@pytest.mark.parametrize(
    ("reply", "lines"),
    [
        ("", 0),
        ("\n \n\t\n", 0),
        ("a\n\nb\n", 2),
        ("a\r\n\r\nb\r\n", 2),
        ("a\x0cb\u2028c", 1),
        ("```python\na\n\nb\n```", 2),
        ("Some words.\n\n```\na\nb\n```\n\nAnd:\n\n```\nc\n```\nDone.", 3),
        ("```python\na\nb", 2),
        ("````md\n```python\na\n```", 2),
        ('x = "```"\ny = 1', 2),
        ("a\n" * 100_000, 100_000),
    ],
)
def test_lines_are_those_of_the_code_that_are_not_blank(reply, lines):
    assert code_facts("", reply).lines == lines


@given(st.text(), st.text())
def test_whatever_is_asked_and_answered_has_a_language_of_the_set(prompt, reply):
    facts = code_facts(prompt, reply)
    assert isinstance(facts, CodeFacts)
    assert facts.language in LANGUAGES
    assert 0 <= facts.lines <= reply.count("\n") + 1


@given(st.text(alphabet="ab \t\n{}();=", max_size=300))
def test_code_without_a_fence_counts_every_line_with_something_on_it(reply):
    assert code_facts("", reply).lines == sum(1 for line in reply.split("\n") if line.strip())


def test_only_the_ends_of_a_prompt_and_the_head_of_the_code_are_looked_at():
    padding = "- " * (PROMPT_HEAD + PROMPT_TAIL)
    assert code_facts(f"{padding} Write it in Lua. {padding}", "x").language == "other"
    assert code_facts(f"Write it in Lua. {padding}", "x").language == "lua"
    assert code_facts(f"{padding} Write it in Lua.", "x").language == "lua"
    assert code_facts("", ". " * CODE_HEAD + "\ndef f(x):\n    return x").language == "other"


SEEDS = [
    "```\n",
    "```a\n",
    "in C ",
    "go ",
    "to Go ",
    "as an ",
    "write me a ",
    "C c++ ",
    " ",
    "\n",
    "\n ",
    "a",
    "a ",
    "(",
    "() ",
    "<a ",
]
SEEDS += [
    "{",
    "[",
    '"',
    "$a",
    "#\n",
    "--\n",
    "- a:\n",
    "a: b\n",
    "def f(",
    "def a()",
    "fn a<",
    "case a ",
    "match a ",
    "f(a, ",
    "用",
]
SEEDS += [
    "import a from ",
    "function a(b, ",
    "interface A extends B, ",
    "class A ",
    "local a, ",
    "::",
    "@a\n",
    "\0",
]


@pytest.mark.parametrize("seed", SEEDS)
def test_hostile_texts_of_a_million_characters_take_no_time_to_speak_of(seed):
    text = (seed * 1_000_000)[:1_000_000]
    code_facts("", "")  # compiles
    began = time.process_time()
    code_facts(text, text)
    # About 0.1 s on a slow core; a rule that is not linear takes minutes.
    assert time.process_time() - began < 10
