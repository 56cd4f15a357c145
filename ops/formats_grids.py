"""The grids of the IQ1, IQ2 and IQ3 formats: lists of 4 or 8 small numbers that an index stands for.

Each entry is a number written with few digits, the first number its lowest digit; entries ascend. What is kept here
is the differences between them, as 16-bit integers, compressed. Source: the tables of GGML.
"""

from __future__ import annotations

import zlib
from base64 import b85decode

import numpy as np
from numpy.typing import NDArray

from .formats_block import Bytes

_DIFFERENCES = (
    "c-o~|+m0ML8MezVS50+wPfe%O=}9`1*-"
    "3U7qG$+12rCq%2raAC3Kq0ltyWy+iVH4y1TMKoJPXgl^YHoeZ<p)Poe8Ma)m1+H{tw@OuuG{TyBvNtJv%--{#sS@-"
    ">Q|mz*~#AwR)i*v$aWcTX}BN`$}!_)TkY2T;Lb!wu$~0y*u><MtvppYK&`TJwI}dmPWnC?@ng6p!-"
    "r?sw<56lC#!o4}L7(Zq+NcY*k0T?{I&O|3AsNmAb*$jrxF9TlD;0y%|XCFy4wJYtr@aJKT5V<AOZA0QD{2-l^|oq{T`vIr9r}79{oZy}*43-"
    "fkhE=V7P5QP&vRp#2i_-"
    ">Gjoe+SApn0tX4R{emHx9T72Kcv0^7kg^{z4|)Y!rQ>>V2l1WXnv=D1nr>zTeRM&UxTL&R{Bx>8(R4n$6jE}2UY9WN)7CvUv}o*WzUvYotx<fGon"
    "t{gVrWVP!k`=Rw^=EOlf$m?D@1}`<_V4xv_%bh@&E*#ZhYxda)B(>_n1&=9G&yJz^#8YuaTz%0GF#>}AGVylsg~zfMO)Z!zi?2!1)yX^+PE<S^$F"
    "bFLt9Sf#`LE$BCBZ}Ij{WN(O%6|m3}@z)%GOz&ge&C6`XznsYab_O3oH(iPfuV}F?@foSqxUSH?5t+U{fS`RsO#zR+0J4iLUNp3>gGL>2e~C3}uI"
    "y>=$;;n}jlfY&eHZF4jA$M1zb7xR;3;oF`8{U&nTHUt&GfdWCtr)zyDV}R^wAD0T|nLq#_TEMmi%}QKVS{VsA5xe>cFS>_iu3Dp#3qm@E)@Z@b_m"
    "(cMaQKa<!o68q{ww=1O$$XM1jL)IUih;O{l*yk%S|K%@Ia|DU48PTJ@EH^+oaF=EcUV#|t@12T^DaVYwXSDaF@ANBZV#L*c4QyC9w!%MOnMaOzTu"
    "@=v+#iCb?C{xMpQTy1VQr|DKcS%1kivit1nLkaF$3}!`Fm8D~v0FWvxtpOCye#JXL$(TB)ROaa8}<I4b5l#*VwuyuUhF}{9hb}_D&~TYF}c_CW6`"
    "uj%-"
    "&+fJ<+har$uvLaI;*^`O9(346DMa=06>0?*GoY+d;)TH@`hNcST!=Jp3sUZ|Eog8>TzfDfgW{*Vb1&Z)f^_HtDO34%NhFCVJ$SJgldV6}Z>e<tSq"
    "1oOr+Jn7Mu{2)@CZEpYrjGFCnE4?Bwgb%uR=RNqd<gi)d8cB0Ap-g*qxXRMrZ54<Lo9WeHWxjxp8HuIcA*6yj)%-"
    "O#6ZlwDu4quY<OU%4V*7f@mpVR+Jx*;RR=yc6ma?AQ5#H0(+Q>-MeXuA$I&KunCSb^-NF0-"
    "f(Hj@8KzH8hob)wFN$CB?>8U8P159r$~wuHJo@aZ^vp`NP;pjvWtu=4|~{0sF+5crT7iL}GNpQjl|Dz^PB^;eY5*H9;FiFpgqcn)Owit7PZ_ybYd"
    "Q}Vo?sAr^Ugu)X_R`V@zxx{@5ekxXbR(%F4JJv`~)bGg6BWNkg_z+{u#Ki*tPq^9=J)JrQC%?h{f$T4yVD&Y6Zt&Y+^oq!_;B<pgnzi8>?DR~1j$"
    "Xg=L-ZL^zr(tZXx|S1&&1<?s-"
    "BA6HCq1&j{V4vGoE6^1t|Ib<yWBgx%xR)UP)c7>Ak+*ehI!xAZ5w*K11s>?#91_{WUJb(VE%`Gri?X(PEM8VQ|H9mZN-"
    "2@aPKEEj6XtqS<FS##4)wmUyZedyHt<NF-W{1s8lX)TqCo60ZSIrHnl##)96?@K%v_9J6Ev-18Zw3NnPfibqPogOOPkSF6|`c1<Sf!gJE_7qt-"
    "h)0}yRr-f)~DPH4gKFnyIs-IB0WkQf2=dp3dIFWN%B(AjRD7-"
    "JlR)+p<lK#UQJH9o^LmT?15p7z?8&~x{yTJVf?G^jZ`Bc)+H2RkGn38$K(s!5ij1m#ON*q=R8;0w}d|inqI@#4U67O29Q&D3<wiAgFD<YyKiq2@^"
    "C223nL4&skxGqJzKFV0BL=3s8xKb%=JEFvqZ_iyxJ(RG3p^uhXY<o^W@bTxI=xN{`=ip%jZF+=xEuBjZypr`=@r|J86Y%9V*>Ke*e6$3$Q$~$ekm"
    "FCq{CQCeDGK!~O0vR##H^1b9cVp;kFJTOlDcfk^)E5@6h8w_HW>Q^F`+<fh<1TO%c$X_^eJnL=yP75=S0SeXA7S59pZuCWj_KU^ZlO@yA%@dd{x}"
    "Hlqq-Xl=pP<$9xx{X@f)agKf$|Jz^v}SXwvM<4*RMUYky`t(I6`NG`VG<$dgm*GY;vv3JE&!@j045~-"
    "Y2k&9Vg?LjF*)X?I+CY^Z3>fn&<Ml>BGYngWOI-{A_XPOuaqs?r^ZaG?KSFD8UbiNcVQjY4tI@<#UF14&_xn7<ZbeiiVuH@R+DH{~CHVJKI#-"
    "kpM)Pt6xZF~Fo^4Y=cn4OGJ*3@J`S54dW^;0p!r<1t9O1<8LdZ~MULM3Jfe4I%AQjM(BpJJJG4p<HlkfUO*H`uq5T$JlF+S8?&WJc&c)K{lHZf@1"
    "k;v^FriC`}C@Mz;uMVgU~okUkBSHN;9SZogXQIq*V#H10ao6%0d$?TFy8qVq^E)V*0JKEQEQla#9LXN57NlLVTIoTx!OfND|YQ*+F@0QGft<)T2U"
    "zqMUOTn$4VAPJ@b*kL@Dy~RT(a!K3a5lH9$$T<K=ct)pE+e&4Ig0vja7GX+Bt4M9X8xMThCX&i--?#$vJ(o+)0rkkfqZp4z^9fuG4l0sei&bdx+-"
    "RRb58p;-NYU?JBO%8HVcuV%ref2=(D$*nIKFLEUQOabA!>bN-ZY*&PUm?Y<lJ@CeoWpkD1UcM$vanyWc;|uh~bJzRk!^L1($6w|SNM;#m5;&(8Xj"
    "o5jS`>PD`9jAMkVWEZ3pDtZZfzp4hBYO~1e2Ivb2S!Nk3piQTG--rw@%g!+qw^BW6M!BHvrNq3`l+owT3Wr&?mT_Z0wS&6JS5xB{RAh2i(r&VqgZ"
    ")a0;KQtwBgm$GXP)1~zUNe|)?{CY9J5)OomCeD%-WH^n#4z}tSnCih7m=}&cX~Tu{?w6k5qbjT(kozOX)G`X-Z)sI-m9|rOK>QCbm-"
    "Bx-1&y_U?1QTuoN++eBUoYuVdt$pIy+k3P!fHKa-PNngX~dWh22qq;TL5Y0z4xIB=_gBRvs+G^R4jPudlNp6{;)@He4oX_m&%Tyd$(?U5)>vZloj"
    "G=KxT+5AOP#$6QJ+qKWrvv)H{wJQVlv!koG1-Y-Z1RwL@QvAJRfds$x|{h*SB&bUajQ)j%ysLvbb@PmCfue-"
    "ygcGdb33#?dum39JexM@Y+@<gR3h84O7To=@3QLFq`1EyVPRMixJmAh--AQ^suPDXQ?{x0G?Q=V{eE~}_FAg+@a@W`8D-MqkjhlI{{_>cggg"
)
_TWO = (8, 25, 43)
_ENTRIES = (
    ("IQ2_XXS", 256, 8, _TWO),
    ("IQ2_XS", 512, 8, _TWO),
    ("IQ2_S", 1024, 8, _TWO),
    ("IQ3_XXS", 256, 4, (4, 12, 20, 28, 36, 44, 52, 62)),
    ("IQ3_S", 512, 4, (1, 3, 5, 7, 9, 11, 13, 15)),
    ("IQ1", 2048, 8, (120, 128, 136)),  # eighths of -1, 0 and 1, + 128
)


def _grids() -> dict[str, Bytes]:
    differences = np.frombuffer(zlib.decompress(b85decode(_DIFFERENCES)), "<u2").astype(np.int64)
    grids, start = {}, 0
    for name, size, width, digits in _ENTRIES:
        grids[name] = _spell(differences[start : start + size].cumsum(), width, digits)
        start += size
    return grids


def _spell(entries: NDArray[np.int64], width: int, digits: tuple[int, ...]) -> Bytes:
    places = entries[:, None] // len(digits) ** np.arange(width) % len(digits)
    spelled: Bytes = np.array(digits, np.uint8)[places]
    return spelled


GRIDS = _grids()  # (entries, 4 or 8) by format
# A set bit of the index stands for a negative number: 255 is -1 in arithmetic of bytes.
SIGNS = np.where(np.arange(256)[:, None] >> np.arange(8) & 1, 255, 1).astype(np.uint8)
# Of 7 bits, the eighth makes their number even.
EVEN_SIGNS = SIGNS[[index | (index.bit_count() & 1) << 7 for index in range(128)]]
