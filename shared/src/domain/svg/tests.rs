//! What is drawn comes back, what others draw is read right, and what is refused is named.

use proptest::prelude::*;

use super::*;
use crate::domain::board::Stroke;

const NOW: i64 = 1_000_000;

fn read(inside: &str) -> Vec<Stroke> {
    read_file(&format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg">{inside}</svg>"#
    ))
}

fn read_file(text: &str) -> Vec<Stroke> {
    import(text, NOW).unwrap_or_else(|e| panic!("{e}")).strokes
}

fn refused(inside: &str) -> SvgError {
    let text = format!(r#"<svg xmlns="http://www.w3.org/2000/svg">{inside}</svg>"#);
    import(&text, NOW).expect_err(inside)
}

/// The points of the one stroke, rounded.
fn points(inside: &str) -> Vec<f64> {
    let strokes = read(inside);
    assert_eq!(strokes.len(), 1, "{inside}");
    strokes[0]
        .points
        .iter()
        .map(|n| (n * 1e6).round() / 1e6 + 0.0)
        .collect()
}

fn path(d: &str) -> Vec<f64> {
    points(&format!(r#"<path stroke="red" d="{d}"/>"#))
}

prop_compose! {
    fn any_stroke()(
        id in "[ -~]{1,20}|\u{fffe}[é<&\"']{1,5}",
        width in 1e-9..10_000.0_f64,
        color in "#([0-9a-fA-F]{3}|[0-9a-fA-F]{4}|[0-9a-fA-F]{6}|[0-9a-fA-F]{8})|[Rr]ed|teal|\
            rgb\\([0-9]{1,2} 130 246\\)|rgba?\\(1, 2, [0-9]{1,2}, 0\\.[0-9]\\)|hsl\\([0-9]{1,3}deg 50% 40%( / [0-9]{1,2}%)?\\)",
        points in prop::collection::vec(
            (prop::num::f64::NORMAL | prop::num::f64::ZERO, -1e4..1e4_f64), 1..6),
        ts in any::<i32>(),
    ) -> Stroke {
        Stroke {
            id,
            width,
            color,
            points: points.into_iter().flat_map(|(x, y)| [x, y]).collect(),
            ts: ts.into(),
        }
    }
}

proptest! {
    #[test]
    fn what_is_exported_reads_back_the_same(strokes in prop::collection::vec(any_stroke(), 0..5)) {
        let mut strokes = strokes;
        for (i, stroke) in strokes.iter_mut().enumerate() {
            stroke.id = format!("{i}{}", stroke.id);
        }
        let svg = export(&strokes, "a <title> & more");
        let back = import(&svg, i64::from(i32::MAX)).unwrap();
        prop_assert_eq!(back.strokes, strokes, "{}", svg);
    }

    #[test]
    fn no_text_makes_the_import_panic(text in "\\PC*", d in "[MmLlHhVvCcSsQqTtAaZz0-9 ,.+-]{0,60}") {
        let _ = import(&text, NOW);
        let _ = import(&format!("<svg>{text}</svg>"), NOW);
        let _ = import(&format!(r#"<svg><path d="{d}"/></svg>"#), NOW);
    }
}

#[test]
fn an_export_says_what_it_draws() {
    let stroke = Stroke {
        id: "a\"b".into(),
        width: 4.0,
        color: "#11223380".into(),
        points: vec![1.0, 2.0, 3.5, -4.0],
        ts: 9,
    };
    let dot = Stroke {
        id: "dot".into(),
        color: "#ABC".into(),
        points: vec![0.0, 0.0],
        ..stroke.clone()
    };
    let named = Stroke {
        id: "named".into(),
        color: "hsl(0 100% 50%)".into(),
        ..dot.clone()
    };
    let svg = export(&[stroke, dot, named], "t");
    for part in [
        r#"viewBox="-2 -6 7.5 10" width="7.5" height="10""#,
        r#"fill="none" stroke-linecap="round" stroke-linejoin="round""#,
        r##"data-id="a&quot;b" data-ts="9" data-color="#11223380" stroke="#112233" stroke-opacity="0.50196"##,
        r##"stroke="#ABC" stroke-width="4" d="M0 0Z"/>"##,
        r#"stroke-width="4" d="M1 2L3.5 -4"/>"#,
        r##"data-color="hsl(0 100% 50%)" stroke="#ff0000" stroke-width"##,
    ] {
        assert!(svg.contains(part), "{part} is not in {svg}");
    }
}

#[test]
fn straight_commands_absolute_and_relative() {
    let square = [1.0, 1.0, 5.0, 1.0, 5.0, 4.0, 1.0, 4.0, 1.0, 1.0];
    assert_eq!(path("M1 1H5V4H1Z"), square);
    assert_eq!(path("m1,1h4v3h-4z"), square);
    assert_eq!(path("M1 1 5 1 5 4 1 4z"), square);
    assert_eq!(path("m1 1 4 0 0 3-4 0z"), square);
    assert_eq!(path("M1 1L5 1l0 3L1 4l0-3"), square);
    assert_eq!(path("M.5.5-1-1"), [0.5, 0.5, -1.0, -1.0]);
    assert_eq!(path("M1e1 2E-1L0 0"), [10.0, 0.2, 0.0, 0.0]);
    assert_eq!(path("M3 4Z"), [3.0, 4.0], "a dot");
    assert_eq!(read(r#"<path d="M3 4"/>"#), [], "draws nothing");
    let two = read(r#"<path stroke="red" d="M0 0L1 1ZL2 2M5 5l1 0"/>"#);
    let lines: Vec<_> = two.iter().map(|s| s.points.as_slice()).collect();
    assert_eq!(
        lines,
        [
            &[0.0, 0.0, 1.0, 1.0, 0.0, 0.0][..],
            &[0.0, 0.0, 2.0, 2.0],
            &[5.0, 5.0, 6.0, 5.0]
        ]
    );
}

/// Every point of the line, and the middle between each two, is this near to the curve, given as densely sampled points.
fn follows(line: &[f64], curve: impl Fn(f64) -> [f64; 2]) {
    let samples: Vec<_> = (0..=4_000).map(|i| curve(f64::from(i) / 4_000.0)).collect();
    let line: Vec<_> = line.chunks(2).map(|p| [p[0], p[1]]).collect();
    let between = line
        .windows(2)
        .map(|w| [(w[0][0] + w[1][0]) / 2.0, (w[0][1] + w[1][1]) / 2.0]);
    for point in line.iter().copied().chain(between) {
        let near = samples
            .iter()
            .map(|s| (s[0] - point[0]).hypot(s[1] - point[1]))
            .fold(f64::INFINITY, f64::min);
        assert!(near < FLATNESS * 1.5, "{point:?} is {near} from the curve");
    }
    let ends = [line[0], line[line.len() - 1]];
    for (end, at) in ends.iter().zip([curve(0.0), curve(1.0)]) {
        assert!((end[0] - at[0]).hypot(end[1] - at[1]) < 1e-5);
    }
}

#[test]
fn curves_are_followed_within_the_tolerance() {
    let cubic = |p: [[f64; 2]; 4]| {
        move |t: f64| {
            let u = 1.0 - t;
            [0, 1].map(|i| {
                u * u * u * p[0][i]
                    + 3.0 * u * u * t * p[1][i]
                    + 3.0 * u * t * t * p[2][i]
                    + t * t * t * p[3][i]
            })
        }
    };
    let s = [[0.0, 0.0], [0.0, 100.0], [100.0, 100.0], [100.0, 0.0]];
    follows(&path("M0 0C0 100 100 100 100 0"), cubic(s));
    follows(&path("M0 0c0 100 100 100 100 0"), cubic(s));
    let smooth = path("M0 0C0 100 100 100 100 0S200-100 200 0");
    let half = smooth.chunks(2).position(|p| p == [100.0, 0.0]).unwrap();
    follows(
        &smooth[half * 2..],
        cubic([[100.0, 0.0], [100.0, -100.0], [200.0, -100.0], [200.0, 0.0]]),
    );
    let quadratic = |p: [[f64; 2]; 3]| {
        move |t: f64| {
            let u = 1.0 - t;
            [0, 1].map(|i| u * u * p[0][i] + 2.0 * u * t * p[1][i] + t * t * p[2][i])
        }
    };
    follows(
        &path("M0 0Q50 80 100 0"),
        quadratic([[0.0, 0.0], [50.0, 80.0], [100.0, 0.0]]),
    );
    let smooth = path("M0 0q50 80 100 0t100 0");
    let half = smooth.chunks(2).position(|p| p == [100.0, 0.0]).unwrap();
    follows(
        &smooth[half * 2..],
        quadratic([[100.0, 0.0], [150.0, -80.0], [200.0, 0.0]]),
    );
}

#[test]
fn arcs_turn_the_way_their_flags_say() {
    use std::f64::consts::PI;
    let round = |cx: f64, cy: f64, from: f64, sweep: f64| {
        move |t: f64| {
            let angle = from + sweep * t;
            [cx + 50.0 * angle.cos(), cy + 50.0 * angle.sin()]
        }
    };
    // From (0, 0) to (50, 50): two circles, two arcs each.
    let quarter = PI / 2.0;
    follows(
        &path("M0 0A50 50 0 0 1 50 50"),
        round(0.0, 50.0, -quarter, quarter),
    );
    follows(
        &path("M0 0A50 50 0 0 0 50 50"),
        round(50.0, 0.0, PI, -quarter),
    );
    follows(
        &path("M0 0a50 50 0 1150 50"),
        round(50.0, 0.0, PI, 3.0 * quarter),
    );
    follows(
        &path("M0 0a50,50,0,1,0,50,50"),
        round(0.0, 50.0, -quarter, -3.0 * quarter),
    );
    // Too small to reach: grown to a half circle.
    follows(&path("M0 0A1 1 0 0 1 100 0"), round(50.0, 0.0, PI, PI));
    assert_eq!(path("M0 0A0 5 0 0 1 9 9"), [0.0, 0.0, 9.0, 9.0], "a line");
}

#[test]
fn basic_shapes_become_lines() {
    let stroke = |shape: &str| points(&format!("<g stroke='red'>{shape}</g>"));
    assert_eq!(stroke("<line x1='1' x2='3' y2='4'/>"), [1.0, 0.0, 3.0, 4.0]);
    assert_eq!(
        stroke("<polyline points='0,0 1,1 2,0'/>"),
        [0.0, 0.0, 1.0, 1.0, 2.0, 0.0]
    );
    assert_eq!(
        stroke("<polygon points='0 0 1 1'/>"),
        [0.0, 0.0, 1.0, 1.0, 0.0, 0.0]
    );
    assert_eq!(
        stroke("<rect x='1' y='2' width='3' height='4'/>"),
        [1.0, 2.0, 4.0, 2.0, 4.0, 6.0, 1.0, 6.0, 1.0, 2.0]
    );
    let circle = |t: f64| {
        let angle = t * std::f64::consts::TAU;
        [10.0 + 40.0 * angle.cos(), 40.0 * angle.sin()]
    };
    follows(&stroke("<circle cx='10' r='40'/>"), circle);
    let flat = |t: f64| [circle(t)[0], circle(t)[1] / 4.0];
    follows(&stroke("<ellipse cx='10' rx='40' ry='10'/>"), flat);
    let rounded = stroke("<rect width='100' height='60' rx='20'/>");
    assert_eq!(rounded[..4], [20.0, 0.0, 80.0, 0.0]);
    assert_eq!(rounded[rounded.len() - 2..], [20.0, 0.0]);
    for p in rounded.chunks(2) {
        let outside = |v: f64, most: f64| (20.0 - v).max(v - (most - 20.0)).max(0.0);
        let reach = outside(p[0], 100.0).hypot(outside(p[1], 60.0));
        assert!(reach < 20.001, "{p:?} is outside the corner");
    }
    assert_eq!(
        stroke("<rect width='10' height='10' rx='9' ry='9'/>")[0],
        5.0
    );
    assert!(read("<g stroke='red'><circle r='0'/><rect width='5'/></g>").is_empty());
}

#[test]
fn transforms_compose_from_the_inside_out() {
    let at = |transform: &str| {
        points(&format!(
            "<g transform='{transform}'><line stroke='red' x1='1' y1='2' x2='0' y2='0'/></g>"
        ))[..2]
            .to_vec()
    };
    assert_eq!(at("translate(10)"), [11.0, 2.0]);
    assert_eq!(at("translate(10 20) scale(2,3)"), [12.0, 26.0]);
    assert_eq!(at("scale(2),translate(10,20)"), [22.0, 44.0]);
    assert_eq!(at("rotate(90)"), [-2.0, 1.0]);
    assert_eq!(at("rotate(90 1 1)"), [0.0, 1.0]);
    assert_eq!(at("skewX(45)"), [3.0, 2.0]);
    assert_eq!(at("skewY(45)"), [1.0, 3.0]);
    assert_eq!(at("matrix(1 2 3 4 5 6)"), [12.0, 16.0]);
    let by_style = |style: &str| {
        let line = format!("<line transform='scale(9)' style='{style}' stroke='red' x1='1'/>");
        points(&line)[..2].to_vec()
    };
    assert_eq!(
        by_style("transform: translate(50px, 2px) rotate(180deg)"),
        [49.0, 2.0]
    );
    assert_eq!(by_style("transform:none;opacity:1"), [1.0, 0.0]);
    let error =
        refused("<rect style='transform:rotate(1turn)' stroke='red' width='1' height='1'/>");
    assert!(
        error.element == "rect" && error.reason.contains("transform"),
        "{error}"
    );
    let nested = "<g transform='translate(5,0)'><g transform='scale(2)'><line transform='translate(1)' stroke='red' stroke-width='3' x2='1'/></g></g>";
    let stroke = &read(nested)[0];
    assert_eq!(
        (stroke.points.as_slice(), stroke.width),
        (&[7.0, 0.0, 9.0, 0.0][..], 6.0)
    );
}

#[test]
fn the_view_box_is_brought_into_the_size() {
    let first = |attributes: &str| {
        let text = format!(
            "<svg {attributes}><line stroke='red' stroke-width='2' x1='10' y1='10'/></svg>"
        );
        let stroke = &read_file(&text)[0];
        [stroke.points[0], stroke.points[1], stroke.width]
    };
    assert_eq!(first("viewBox='10 10 100 50'"), [0.0, 0.0, 2.0]);
    assert_eq!(first("viewBox='0 0 100 50' width='200'"), [20.0, 20.0, 4.0]);
    assert_eq!(
        first("viewBox='0 0 100 50' width='200' height='200'"),
        [20.0, 70.0, 4.0]
    );
    assert_eq!(
        first("viewBox='0 0 100 100' width='200' height='50' preserveAspectRatio='xMinYMin slice'"),
        [20.0, 20.0, 4.0]
    );
    assert_eq!(first("width='2in' height='100%'"), [10.0, 10.0, 2.0]);
    let nested = "<svg><svg x='100' y='10' width='20' height='20' viewBox='0 0 10 10'><line stroke='red' x2='5' y2='50%'/></svg></svg>";
    assert_eq!(read_file(nested)[0].points, [100.0, 10.0, 110.0, 20.0]);
}

#[test]
fn styles_are_inherited_and_overridden() {
    let look = |inside: &str| {
        let strokes = read(inside);
        strokes.first().map(|s| (s.color.clone(), s.width))
    };
    let some = |color: &str, width: f64| Some((color.to_owned(), width));
    assert_eq!(
        look("<g stroke='blue' stroke-width='3'><line x2='1'/></g>"),
        some("#0000ff", 3.0)
    );
    assert_eq!(
        look(
            "<g stroke='blue'><line stroke='green' style='stroke: #F00 !important; stroke-width:2px' x2='1'/></g>"
        ),
        some("#F00", 2.0)
    );
    assert_eq!(
        look(
            "<g color='teal' opacity='.5'><line stroke='currentColor' stroke-opacity='50%' x2='1'/></g>"
        ),
        some("#00808040", 1.0)
    );
    assert_eq!(
        look("<path d='M0 0H5V5'/>"),
        some("#000000", 1.0),
        "filled only"
    );
    assert_eq!(
        look("<path fill='#abc' stroke='none' d='M0 0H5V5'/>"),
        some("#abc", 1.0)
    );
    assert_eq!(look("<path fill='none' d='M0 0H5V5'/>"), None);
    assert_eq!(
        look("<g display='none' stroke='red'><line x2='1'/></g>"),
        None
    );
    assert_eq!(
        look("<g visibility='hidden' stroke='red'><line x2='1'/></g>"),
        None
    );
    assert_eq!(
        look(
            "<g transform='scale(3)'><line stroke='red' vector-effect='non-scaling-stroke' x2='1'/></g>"
        ),
        some("#ff0000", 1.0)
    );
    let outline = read("<path fill='red' d='M0 0H5V5'/>");
    assert_eq!(outline[0].points, [0.0, 0.0, 5.0, 0.0, 5.0, 5.0, 0.0, 0.0]);
    let text = "<svg><defs><line stroke='red' x2='1'/></defs><text>hi</text><circle r='1'/></svg>";
    let imported = import(text, NOW).unwrap();
    assert_eq!((imported.strokes.len(), imported.outlined), (1, 1));
    assert_eq!(imported.left_out.get("text"), Some(&1));
}

#[test]
fn whatever_could_run_or_load_is_refused_by_name() {
    for (inside, element, reason) in [
        ("<script>1</script>", "script", "script"),
        ("<g><defs><script/></defs></g>", "script", "script"),
        ("<rect onload='x()'/>", "rect", "onload"),
        ("<rect ONCLICK='x()'/>", "rect", "ONCLICK"),
        ("<foreignObject/>", "foreignObject", "foreign"),
        ("<b xmlns='http://www.w3.org/1999/xhtml'/>", "b", "HTML"),
        ("<a href='https://example.org'/>", "a", "href"),
        (
            "<a xmlns:x='http://www.w3.org/1999/xlink' x:href='javascript:1'/>",
            "a",
            "href",
        ),
        (
            "<image href='data:image/png;base64,AA'/>",
            "image",
            "pictures",
        ),
        ("<use href='#a'/>", "use", "use is refused"),
        ("<style>@import 'x'</style>", "style", "style sheets"),
        (
            "<rect fill='url(https://example.org/a#b)'/>",
            "rect",
            "fill",
        ),
        (
            "<rect style='fill:URL( \"//example.org\")'/>",
            "rect",
            "style",
        ),
        ("<rect style='fill:u\\72l(x)'/>", "rect", "escapes"),
        (
            "<rect width='1' height='1' fill='url(#g)'/>",
            "rect",
            "gradients",
        ),
        ("<animate attributeName='href'/>", "animate", "animations"),
        ("<g xml:base='http://example.org'/>", "g", "base"),
        ("<line stroke='rgb(1)'/>", "line", "stroke"),
        ("<line transform='spin(1)'/>", "line", "transform"),
        ("<path d='L1 1' stroke='red'/>", "path", "character 1"),
        ("<path d='M1 1 X' stroke='red'/>", "path", "d:"),
        ("<rect width='-1' height='1'/>", "rect", "width"),
        ("<circle r='1em'/>", "circle", "r:"),
        (
            "<line stroke='red' stroke-width='20000' x2='1'/>",
            "line",
            "width",
        ),
        (
            "<path stroke='red' d='M1e308 0H-1e308l-1e308 0'/>",
            "path",
            "too large",
        ),
        ("<?php 1 ?>", "?", "processing"),
    ] {
        let error = refused(inside);
        assert!(
            error.element == element && error.reason.contains(reason),
            "{inside}: {error}"
        );
    }
    let dtd = "<!DOCTYPE svg [<!ENTITY a 'aaaa'>]><svg>&a;</svg>";
    let error = import(dtd, NOW).unwrap_err();
    assert_eq!(
        (error.element.as_str(), error.line, error.column),
        ("!DOCTYPE", 1, 1)
    );
    assert!(import("<svg><g></svg>", NOW).is_err());
    assert!(import("<html/>", NOW).is_err());
    let place = import("<svg>\n  <g/>\n  <é/><script/></svg>", NOW).unwrap_err();
    assert_eq!((place.line, place.column), (3, 7));
}

#[test]
fn bombs_are_refused_before_they_go_off() {
    let deep = format!("{}{}", "<g>".repeat(10_000), "</g>".repeat(10_000));
    assert!(refused(&deep).reason.contains("deeper"), "nesting");
    let many = "<g/>".repeat(ELEMENTS_MAX + 1);
    assert!(refused(&many).reason.contains("elements"), "elements");
    let wide: String = (0..200_000).map(|i| format!(" a{i}=''")).collect();
    let error = refused(&format!("<g{wide}/>"));
    assert!(error.element == "g" && error.reason.contains("attributes"));
    let names = |level: usize| (0..20).map(move |i| format!(" xmlns:n{level}_{i}='u'"));
    let declaring: String = (0..10)
        .map(|level| format!("<g{}>", names(level).collect::<String>()))
        .collect();
    let error = refused(&format!(
        "{declaring}{}",
        "<g xmlns:z='u'/>".repeat(100_000)
    ));
    assert!(error.element == "g" && error.reason.contains("namespaces"));
    // One after the other they are as many as you like.
    let one = "<g xmlns:a='u' xmlns:b='v'><path stroke='red' d='M0 0h1'/></g>";
    assert_eq!(read(&one.repeat(200)).len(), 200);
    let long = format!("<path stroke='red' d='M0 0{}'/>", "h1".repeat(200_000));
    let error = refused(&long);
    assert!(
        error.element == "path" && error.reason.contains("points"),
        "{error}"
    );
    // A curve of any size makes a bounded number of points.
    let vast = read("<circle r='1e15'/><path d='M0 0Q1e300 1e300 5 5'/>");
    assert!(
        vast.iter()
            .all(|s| s.points.len() <= 2 * (CURVE_SEGMENTS_MAX + 2))
    );
}
