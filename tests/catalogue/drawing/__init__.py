"""Draws clothes, people and places for the demo catalogue.

All lengths are centimetres on a person 170 cm tall, x to the right of the body's centre line, y down from
the top of the head. A `View` says where that lands on the canvas. Colours are linear RGB inside, sRGB in names.
"""
