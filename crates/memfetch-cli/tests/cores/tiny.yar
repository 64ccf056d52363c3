rule texts : text
{
    meta:
        of = "tiny.c"
    strings:
        $fox = "quick brown"
        $wide = "wide text" wide
        $own = /in memory of [a-z ]+/ nocase
    condition:
        all of them
}

rule absent
{
    strings:
        $a = "not in it"
    condition:
        $a
}
